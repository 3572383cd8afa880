"""What becomes of roll-ups when rows are dropped: their numbers stay, and late rows are added to them."""
