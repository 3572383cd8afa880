"""Budgets on real servers: the command, what is used and forecast, what gateways hear."""
