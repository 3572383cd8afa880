"""API access tokens: makes, finds, caches, limits and counts them. The HTTP service and the commands use them.

`api/auth.py` decides whether a request is let in or refused.
"""
