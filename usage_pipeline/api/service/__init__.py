"""`GET /` (name and links) and `GET /healthz` (whether the parts work)."""
