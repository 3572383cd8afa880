"""`GET /api/usage/…`: totals, days and files of usage, and one key or token with what still waits in Redis."""
