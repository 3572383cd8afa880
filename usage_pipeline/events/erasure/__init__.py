"""Erasure of a user in tables, archives, refused input and landed files."""
