"""Tests of bound tokens (contracts §10): what they send, see and correct, on every route, beside rows of others."""
