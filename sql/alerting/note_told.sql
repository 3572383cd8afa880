-- A channel took a message about these alerts.
insert into ops.alert_tellings as tellings (alert_id, channel, raised_at, size, severity, cleared_at)
select
    alerts.alert_id,
    %(channel)s,
    case when %(kind)s = 'raised' then %(told_at)s::timestamptz end,
    alerts.size,
    alerts.severity,
    case when %(kind)s = 'cleared' then %(told_at)s::timestamptz end
from ops.alerts as alerts
where alerts.alert_id = any(%(alert_ids)s)
on conflict (alert_id, channel) do update
set
    raised_at = coalesce(excluded.raised_at, tellings.raised_at),
    size = case when excluded.raised_at is null then tellings.size else excluded.size end,
    severity = case when excluded.raised_at is null then tellings.severity else excluded.severity end,
    cleared_at = excluded.cleared_at,
    attempts = 0;
