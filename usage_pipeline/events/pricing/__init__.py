"""What models cost: the prices of genai-prices, and price tables of one's own. Where a price is looked up."""
