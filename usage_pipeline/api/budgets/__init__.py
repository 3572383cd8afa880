"""Budgets (contracts §12): how those stand that a token may see."""
