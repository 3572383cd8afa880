"""What requests cost in roll-ups: all units, tiers and reports, against the price package's own calc_price."""
