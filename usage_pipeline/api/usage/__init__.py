"""`GET /api/usage/…`: totals, days and files of what was used, and one key or token with what still waits in Redis."""
