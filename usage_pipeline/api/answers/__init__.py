"""What answers have in common: their headers, files from memory, and the form that a client asks for."""
