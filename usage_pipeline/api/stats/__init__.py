"""`GET /api/stats/daily`: issue statistics per day."""
