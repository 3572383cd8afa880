"""Every command at its edges: odd arguments, databases that are not as they should be, errors that nobody foresaw."""
