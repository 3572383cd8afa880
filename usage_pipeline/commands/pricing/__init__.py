"""Commands about prices: your own prices, what a model costs, and the costs of past days by other prices."""
