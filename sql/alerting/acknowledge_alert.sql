-- Notes who took an open alert on, and how large it was then.
update ops.alerts
set
    acknowledged_at = clock_timestamp(),
    acknowledged_by = %(who)s,
    acknowledged_size = size,
    acknowledged_severity = severity
where cleared_at is null
  and (dedupe_key = %(key)s or alert_id::text = %(key)s)
returning alert_id;
