"""Removes old rows of Dagster's own history in PostgreSQL, but keeps the rows that statuses in the UI come from."""
