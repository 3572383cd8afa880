"""Prices of models: from the package genai-prices, and from price tables of the user. `rollups/` computes costs with them."""
