"""Spans of OpenTelemetry as usage events: made by the real SDK and encoded by its exporter. HTTP: `api/ingest/test_otlp.py`."""
