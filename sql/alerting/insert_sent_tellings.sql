-- The channels that took an alert before it could be noted.
insert into ops.alert_tellings as tellings (alert_id, channel, owed_at, raised_at, size, severity)
select alerts.alert_id, %(channel)s, %(told_at)s, %(told_at)s, alerts.size, alerts.severity
from ops.alerts as alerts
where alerts.dedupe_key = %(dedupe_key)s
  and alerts.cleared_at is null
on conflict (alert_id, channel) do update
set raised_at = greatest(tellings.raised_at, excluded.raised_at);
