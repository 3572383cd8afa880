"""The guard before Dagster's web server: its rules, its login, and attacks on the real server."""
