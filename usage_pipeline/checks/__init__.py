"""The rules that stored data must keep. Each rule returns one line for each fault, and changes nothing.

`defs/checks/` shows the answers in Dagster.
"""
