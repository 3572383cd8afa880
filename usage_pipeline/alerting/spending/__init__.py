"""Rules about what is spent: budgets, and closed days of a team against its own history. Pure, but for `reading.py`."""
