-- Closes open alerts of judged rules that were not found again. Who was told of one is told that it is over; one whose message
-- is being sent waits for the next evaluation.
update ops.alerts
set
    cleared_at = clock_timestamp(),
    pending = case when delivered_at is not null then 'cleared' end,
    delivered_to = '{}',
    attempts = 0,
    next_try_at = clock_timestamp()
where cleared_at is null
  and rule = any(%(judged)s)
  and dedupe_key <> all(%(found)s)
  and coalesce(claimed_until < clock_timestamp(), true);
