"""`GET /api/external/posts/{id}`: posts of the external API, for callers without a token. They are fetched in `enrichment/`."""
