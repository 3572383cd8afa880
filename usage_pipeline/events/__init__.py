"""Usage events of LLM clients (contracts §2): how they are stored, priced, and erased when a user asks.

`rollups/` makes hours, days, weeks and months of them.
"""
