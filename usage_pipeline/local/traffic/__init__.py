"""Traffic for the demo, tests and benchmarks: counters, usage events, issues. The same seed makes the same traffic."""
