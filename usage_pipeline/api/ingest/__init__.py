"""`POST /api/v1/ingest/…`: bodies within their limits, and what OpenAPI says of them. The events' rules are in `events/`."""
