"""The HTTP service at all its limits at once: what it takes of memory, and how long its event loops stand still.

`__main__` runs it, `bodies` and `clients` are the load, `watched` is the service with a watch on its loop.
"""
