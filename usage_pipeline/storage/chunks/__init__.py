"""Partitions of tables by time (TimescaleDB calls them chunks): creates and locks them, and decides when one may go."""
