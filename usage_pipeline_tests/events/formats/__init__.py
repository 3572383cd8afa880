"""Mappings of other formats: oracles are what LiteLLM logged, and the standards."""
