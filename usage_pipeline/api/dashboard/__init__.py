"""The dashboard at `/` for browsers: its files, and the route that serves them. Its numbers come from the API."""
