"""What waits in Redis and what the last batches held, for people and for metadata. Nothing here changes anything."""
