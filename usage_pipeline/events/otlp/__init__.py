"""Spans of OpenTelemetry (OTLP) as usage events: which spans are calls of a model, and what their attributes mean. Pure; no I/O."""
