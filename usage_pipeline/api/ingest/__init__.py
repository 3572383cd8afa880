"""`POST /api/v1/ingest/…`: reads bodies within limits, and describes them in OpenAPI. Rules of events are in `events/`."""
