"""Pictures for metadata, where looking beats reading: what they show (series.py) and how they are drawn (drawing.py)."""
