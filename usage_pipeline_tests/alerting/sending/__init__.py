"""Messages on their way: which are due, what they say, and through which channel they go."""
