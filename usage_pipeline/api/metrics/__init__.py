"""`GET /metrics`: what the service counts, and readings of the pipeline, for Prometheus."""
