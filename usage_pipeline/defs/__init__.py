"""Everything that Dagster sees: assets, jobs, schedules, sensors, checks. No other package imports dagster.

The bodies here are thin: they choose the days, call a domain package, and attach metadata.
"""
