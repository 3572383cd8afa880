"""The commands that put numbers right, each with a reason: `events`, `conflicts`, and `counters adjust` (contracts §8.3)."""
