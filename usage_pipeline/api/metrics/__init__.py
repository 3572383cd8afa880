"""`GET /metrics` for Prometheus: what the service counts, and readings of the pipeline."""
