"""Alerts: read facts, apply rules, send messages. docs/alerts.md explains each rule.

The facts about Dagster's runs and sensors come from `defs/sensors/alert_facts.py`.
"""
