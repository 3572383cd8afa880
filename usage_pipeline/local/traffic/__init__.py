"""Traffic for demonstrations, tests and benchmarks: counters, usage events, issues; the same seed gives the same."""
