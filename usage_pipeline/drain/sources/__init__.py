"""The Redis side of the drain: it finds, claims, reads and deletes keys, and waits until that is durable."""
