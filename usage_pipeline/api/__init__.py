"""The HTTP service (contracts §3). Each feature has a folder with its routes and what they need.

app.py puts the service together, server.py runs it. All features use auth.py, problems.py and storing.py.
"""
