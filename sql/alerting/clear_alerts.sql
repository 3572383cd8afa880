-- Closes open alerts of judged rules that were not found again. Who was told of one is told that it is over.
update ops.alerts
set cleared_at = clock_timestamp()
where cleared_at is null
  and rule = any(%(judged)s)
  and dedupe_key <> all(%(found)s);
