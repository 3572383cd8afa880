"""Tables as CSV and Parquet: their columns and encodings, which downloads and reports share. Queries are elsewhere."""
