"""Reports what waits in Redis and what the last batches had, for people and for Dagster's metadata. It changes nothing."""
