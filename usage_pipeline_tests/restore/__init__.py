"""Restores as docs/operations.md describes them: a dump of PostgreSQL and a snapshot of Redis, of the same moment or not."""
