-- What became of a message that this evaluator had taken. What failed is tried again later; that an alert is over, for a day.
update ops.alerts
set
    claimed_until = null,
    attempts = attempts + 1,
    delivered_to = delivered_to || %(accepted)s::text[],
    told = case when %(kind)s = 'raised' then array(select distinct unnest(told || %(accepted)s::text[])) else told end,
    delivery_error = %(error)s,
    delivered_at = case
        when %(kind)s = 'raised' and cardinality(%(accepted)s::text[]) > 0 then clock_timestamp()
        else delivered_at
    end,
    cleared_delivered_at = case
        when %(kind)s = 'cleared' and cardinality(%(accepted)s::text[]) > 0 then clock_timestamp()
        else cleared_delivered_at
    end,
    pending = case
        when %(error)s::text is null then null
        when cleared_at < clock_timestamp() - %(cleared_counts)s::interval then null
        else pending
    end,
    next_try_at = clock_timestamp()
        + make_interval(secs => least(%(first_pause)s * 2.0 ^ least(attempts, 20), %(longest_pause)s))
where alert_id = %(alert_id)s
  and claimed_by = %(claimed_by)s
  and pending = %(kind)s;
