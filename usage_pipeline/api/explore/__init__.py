"""Questions about usage (contracts §11): exploring, the dimensions and metrics there are, single requests."""
