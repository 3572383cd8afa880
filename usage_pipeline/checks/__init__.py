"""What must hold: each rule returns a line for each thing that is wrong, and changes nothing.

`defs/checks/` shows the answers in Dagster.
"""
