"""Drain processes that the faults hit."""
