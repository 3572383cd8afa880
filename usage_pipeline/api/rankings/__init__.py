"""`GET /api/…/popular`: the ten most popular, from the cache where they are."""
