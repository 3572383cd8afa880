"""Limits below the requests: of connections, of a request's head, of what is sent ahead, of answers that nobody reads.

uvicorn's protocol for httptools has none of them. What a request's body may be is in `ingest/bodies.py`.
"""
