"""`GET /api/stats/daily`: issue statistics per day. They are made in `rollups/`."""
