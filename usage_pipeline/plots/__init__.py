"""Pictures for the metadata of assets: series.py reads their numbers, drawing.py draws them."""
