"""Reports of weeks and months against the events as they were sent, and who gets them."""
