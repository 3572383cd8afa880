"""Corrections of usage events: what changes, what stays, who is told."""
