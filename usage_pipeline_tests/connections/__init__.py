"""Attacks below the requests: on the HTTP service and on the server of the Dagster UI, which have the same limits."""
