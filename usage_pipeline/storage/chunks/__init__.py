"""Partitions of tables by time (TimescaleDB calls them chunks): made, locked, and when one may leave."""
