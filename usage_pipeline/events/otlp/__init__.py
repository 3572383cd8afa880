"""Spans of OpenTelemetry (OTLP) as usage events: which are calls of a model, and what their attributes mean. Pure; no I/O."""
