"""Archived partitions as Parquet files: the manifest that lists them, the files, reading them back, rewriting them."""
