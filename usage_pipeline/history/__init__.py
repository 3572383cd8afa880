"""Dagster's own history in PostgreSQL: what may go, and what the state of the UI is derived from and stays."""
