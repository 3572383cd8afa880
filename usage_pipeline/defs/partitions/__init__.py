"""Partitions: which ones an asset has, how a run replaces them, and their metadata."""
