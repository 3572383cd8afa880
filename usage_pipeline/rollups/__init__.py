"""Roll-ups: days, hours, weeks, months, issue statistics and rankings. Each is replaced as a whole, so a re-run is safe.

Late data and the prices of days are here, too. Rules between these tables are in `checks/`.
"""
