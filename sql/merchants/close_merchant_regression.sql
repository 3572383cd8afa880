-- Settles a regression, and keeps who did it, why, and what was stored before and after.
update ops.counter_regressions
set stored_value = %(stored_value)s,
    counter_value = %(counter_value)s,
    outcome = %(outcome)s,
    counter_before = %(counter_before)s,
    value_before = %(stored_value)s,
    value_after = %(value_after)s,
    decided_by = %(decided_by)s,
    reason = %(reason)s,
    accepted_at = clock_timestamp()
where regression_id = %(regression_id)s;
