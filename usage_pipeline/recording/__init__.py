"""The recorder, which API servers call in their requests (contracts §1.6): one round trip a record, and it never raises.

Of this project it imports only the names of keys: API servers run it, and it will be a package of its own. The drain reads
what it recorded.
"""
