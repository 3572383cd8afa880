"""Alerts: facts, rules, messages. docs/alerts.md explains each rule; `defs/sensors/alert_facts.py` asks Dagster."""
