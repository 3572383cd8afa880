"""The machinery of partitions: which there are, how a run replaces them, what each tells of itself."""
