"""The sensors: drains, late data, landed files, missed partitions, alerts. What starts by the clock is in `defs/schedules/`."""
