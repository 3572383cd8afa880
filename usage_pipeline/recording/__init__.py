"""The hot path of API servers (contracts §1.6): one round trip for each record, which never raises into a request.

It imports nothing of ours but the names of keys: API servers run it, and it will be a package of its own. Reading what was
recorded is the drain's work.
"""
