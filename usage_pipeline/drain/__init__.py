"""The exactly-once drain of Redis into PostgreSQL: recover, claim, barrier, apply, release.

Start with protocol.py. `sources/` is its Redis side, store.py its PostgreSQL side. `readings/` reports what waits and what
was drained. Merchant counters are in `merchants/`. `reconciliation/` compares what is stored with what was recorded.
"""
