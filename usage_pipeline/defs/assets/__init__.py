"""The assets, one module for each stage of the flow, such as Redis sources, drained rows, daily tables, windows."""
