"""The Redis side of the drain: where keys are found, claimed, read and released, and when that is durable."""
