"""Tests of what a request is counted in: the price package itself says what is right."""
