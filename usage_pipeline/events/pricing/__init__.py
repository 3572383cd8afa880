"""Prices of models: from the package genai-prices, and own prices above them. `rollups/` computes costs with them."""
