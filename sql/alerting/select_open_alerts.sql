-- Open alerts for a reader, oldest first, with what kept a channel from being told.
select
    alerts.alert_id, alerts.rule, alerts.severity, alerts.dedupe_key, alerts.title, alerts.text, alerts.remedy, alerts.link,
    alerts.size, alerts.first_at, alerts.last_at, alerts.count, told.delivered_at, told.delivery_error,
    alerts.acknowledged_at, alerts.acknowledged_by, alerts.snoozed_at, alerts.snoozed_by, alerts.snoozed_until,
    coalesce(alerts.snoozed_until > clock_timestamp(), false) as is_snoozed
from ops.alerts as alerts
cross join lateral (
    select
        max(tellings.raised_at) as delivered_at,
        string_agg(channels.name || ': ' || channels.error, '; ' order by channels.name)
            filter (where tellings.raised_at is null) as delivery_error
    from ops.alert_tellings as tellings
    left join ops.alert_channels as channels on channels.channel = tellings.channel
    where tellings.alert_id = alerts.alert_id
) as told
where alerts.cleared_at is null
order by alerts.first_at, alerts.alert_id;
