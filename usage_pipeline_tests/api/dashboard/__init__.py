"""The analysts' page at `/`: what it loads, and what a person does with it in a real browser."""
