"""The exactly-once drain of Redis into PostgreSQL: recover, claim, barrier, apply, release.

Start with protocol.py. `sources/` is its Redis side, store.py its PostgreSQL side, `readings/` tell people how it goes.
Absolute counters of merchants are in `merchants/`, the comparison with what was recorded in `reconciliation/`.
"""
