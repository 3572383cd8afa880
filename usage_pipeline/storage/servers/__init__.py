"""What the servers tell of themselves: their versions, and whether Redis may delete what it was given."""
