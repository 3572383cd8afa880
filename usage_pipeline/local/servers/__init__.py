"""Embedded PostgreSQL and Redis, from wheels: a folder in, addresses out."""
