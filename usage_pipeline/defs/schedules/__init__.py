"""The schedules: what Dagster starts at fixed times. What starts because of data is in `defs/sensors/`."""
