"""The assets, one module per stage of the flow: Redis sources, drained snapshots and totals, daily tables, merchants."""
