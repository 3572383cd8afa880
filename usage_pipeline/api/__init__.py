"""The HTTP service (contracts §3), a folder for each feature: its routes beside what they need.

app.py puts it together, server.py runs it; auth.py, problems.py and storing.py serve all features.
"""
