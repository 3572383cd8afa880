"""Ways out for dead letters besides their replay: what can be done with one, decisions that some do not count, their export."""
