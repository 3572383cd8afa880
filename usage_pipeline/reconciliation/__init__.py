"""What was recorded, against what became of it: stored, waiting, refused, or missing."""
