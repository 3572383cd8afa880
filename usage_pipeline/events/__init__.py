"""Usage events of LLM clients (contracts §2): taken in, priced, and erased when a user asks.

Windows and statistics that are made of them are in `rollups/`.
"""
