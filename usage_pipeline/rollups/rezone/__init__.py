"""A change of USAGE_TIMEZONE: what is still there gets its days of the new time zone, and what is not is named."""
