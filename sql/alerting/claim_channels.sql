-- Channels that this evaluator may send to now: no other one does, and they are due, or have something that was never tried.
update ops.alert_channels
set
    claimed_by = %(claimed_by)s,
    claimed_until = clock_timestamp() + %(lease)s::interval
where channel = any(%(channels)s)
  and (next_try_at <= clock_timestamp() or channel = any(%(fresh)s))
  and coalesce(claimed_until < clock_timestamp(), true)
returning channel;
