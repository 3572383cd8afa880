"""The daily run over partitions: creates new ones, compresses or archives old ones, drops the oldest.

native.py does it for native partitions, timescale.py for TimescaleDB.
"""
