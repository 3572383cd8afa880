"""`GET /api/…/popular` and `/api/rankings/…`: the ten most popular, from the cache if it has them."""
