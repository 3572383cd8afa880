"""Partitions as Parquet files: the manifest, the files, reading them back, rewriting them."""
