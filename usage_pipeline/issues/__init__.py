"""Loads issues from CSV files. Their statistics and rankings are in `rollups/`."""
