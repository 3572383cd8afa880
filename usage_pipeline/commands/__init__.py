"""The commands of `usage-pipeline`, a module for each group; cli.py puts them together."""
