"""Merchant usage (contracts §1.4): absolute counters per day, read from Redis and never removed there."""
