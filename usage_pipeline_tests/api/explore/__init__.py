"""Exploring over HTTP, against DuckDB over the events as they were sent."""
