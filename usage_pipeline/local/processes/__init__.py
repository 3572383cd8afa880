"""Child processes of a launcher: Dagster's, the HTTP service; started, and stopped with all that they started."""
