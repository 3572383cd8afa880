"""The whole of it: web server, daemon, HTTP clients, kills."""
