"""What must be made again, since what it counts changed."""
