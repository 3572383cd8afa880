"""What stands before Dagster's web server: which pages may ask it, under which names, and who signs in.

Plain ASGI, without Dagster: `defs/webserver.py` puts it before Dagster's own application.
"""
