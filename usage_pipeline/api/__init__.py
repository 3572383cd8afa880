"""The HTTP service (contracts §3): app.py puts it together, server.py runs it."""
