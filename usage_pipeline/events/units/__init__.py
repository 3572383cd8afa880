"""What a request to a model is counted in: units of the price package, and how clients' counts become ours. Pure; no I/O."""
