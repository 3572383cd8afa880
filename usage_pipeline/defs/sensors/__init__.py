"""What runs by events: drains, late data, landed files, missed partitions, alerts."""
