"""Alerts: facts, rules, messages. What Dagster knows comes from `defs/alert_facts.py`; docs/alerts.md explains each rule."""
