"""How a connection to PostgreSQL begins: where to, with which password, what the session sets, and whose server it gets.

`storage/postgres.py` opens them all, with what is here.
"""
