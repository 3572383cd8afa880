"""Budgets (contracts §12): how much of a period may be used, what is used of it, and what gateways read of that in Redis.

Alerts about them are in `alerting/spending/`.
"""
