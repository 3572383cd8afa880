"""Compares what our recorder wrote to Redis with what is stored, waits, was refused, or is missing. It changes no usage."""
