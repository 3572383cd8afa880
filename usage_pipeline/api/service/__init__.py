"""`GET /` and `GET /healthz`: what the service says about itself."""
