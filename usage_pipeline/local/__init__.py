"""Everything on one machine: `usage-pipeline dev`, the demo and its traffic, embedded servers, child processes.

Nothing here is for production.
"""
