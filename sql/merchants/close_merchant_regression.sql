-- Settles a regression. A counter_value that is not below stored_value says that there was nothing to fold in.
update ops.counter_regressions
set stored_value = %(stored_value)s,
    counter_value = %(counter_value)s,
    accepted_at = clock_timestamp()
where regression_id = %(regression_id)s;
