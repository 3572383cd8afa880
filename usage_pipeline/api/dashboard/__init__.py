"""The page at `/` for browsers: its files, and the route that serves them."""
