"""What others send, as usage events (contracts §8, §9): one module for each format, pure mappings from JSON to JSON.

`mapped.py` hands the items on, one by one. The rules of events are in `events/ingest/`, which reads what comes out here.
"""
