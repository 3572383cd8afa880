"""Merchant counters (contracts §1.4): absolute counters per day. They are read from Redis and never removed there.

Counters of API keys, providers and tokens are in `drain/`.
"""
