"""How connections to PostgreSQL begin: through poolers, with passwords that change, to several hosts, under odd roles."""
