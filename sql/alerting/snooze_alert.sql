-- Makes an open alert, and others with its key, silent for a time.
update ops.alerts
set
    snoozed_at = clock_timestamp(),
    snoozed_by = %(who)s,
    snoozed_until = clock_timestamp() + %(span)s::interval
where cleared_at is null
  and (dedupe_key = %(key)s or alert_id::text = %(key)s)
returning alert_id;
