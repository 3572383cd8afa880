-- What became of a channel that this evaluator had claimed. One that took nothing is tried again, later each time.
update ops.alert_channels
set
    claimed_until = null,
    error = %(error)s,
    attempts = case when %(error)s::text is null then 0 else attempts + 1 end,
    next_try_at = clock_timestamp() + case
        when %(error)s::text is null then interval '0'
        else make_interval(secs => least(%(first_pause)s * 2.0 ^ least(attempts, 20), %(longest_pause)s))
    end
where channel = %(channel)s
  and claimed_by = %(claimed_by)s;
