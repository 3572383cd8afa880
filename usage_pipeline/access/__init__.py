"""API access tokens: made, found, cached, limited and counted. The HTTP service and the commands use them.

How a request is let in or refused over HTTP is in `api/auth.py`.
"""
