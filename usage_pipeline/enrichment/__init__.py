"""Posts of the external API (contracts §4): fetched, stored, and stood in for while the API is away."""
