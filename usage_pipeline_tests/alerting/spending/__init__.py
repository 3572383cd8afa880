"""Alerts about what is spent: budgets, and days of teams against their own history."""
