"""Days, windows, issue statistics and rankings, each replaced as a whole, so that a re-run changes nothing.

Late data and prices of days are here, too. What must hold between these tables is in `checks/`.
"""
