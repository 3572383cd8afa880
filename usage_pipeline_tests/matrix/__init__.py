"""Tests on each version of PostgreSQL and of Redis that we support: `make matrix`."""
