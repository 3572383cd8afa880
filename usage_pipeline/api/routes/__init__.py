"""Routes of the HTTP service, one module each."""
