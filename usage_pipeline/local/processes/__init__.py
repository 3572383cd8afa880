"""Child processes of `dev` and the demo: starts Dagster and the HTTP service, and stops them with all that they started."""
