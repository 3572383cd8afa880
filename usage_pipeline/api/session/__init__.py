"""Sign-in of people: the cookie of a session, and the routes that set it and take it away."""
