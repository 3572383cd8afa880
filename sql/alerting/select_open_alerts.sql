-- Open alerts for a reader, oldest first.
select
    alert_id, rule, severity, dedupe_key, title, text, remedy, first_at, last_at, count, delivered_at, delivery_error
from ops.alerts
where cleared_at is null
order by first_at, alert_id;
