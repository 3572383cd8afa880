-- What each channel is to be told now. An open alert: once; again after its time, unless somebody took it on; and when it has
-- grown. One that is over: to those that were told of it, and to those that should have been and could not.
with due as (
    select
        channels.channel,
        'raised' as kind,
        alerts.*,
        tellings.raised_at is not null as was_told,
        tellings.alert_id is null as is_new,
        coalesce(tellings.attempts, 0) as attempts
    from ops.alerts as alerts
    cross join unnest(%(channels)s::text[]) as channels (channel)
    left join ops.alert_tellings as tellings
        on tellings.alert_id = alerts.alert_id
        and tellings.channel = channels.channel
    where alerts.cleared_at is null
      and alerts.is_told
      and coalesce(alerts.snoozed_until <= clock_timestamp(), true)
      and case
          when tellings.raised_at is null then not exists (
              select
              from ops.alerts as earlier
              join ops.alert_tellings as told on told.alert_id = earlier.alert_id
              where earlier.dedupe_key = alerts.dedupe_key
                and earlier.alert_id <> alerts.alert_id
                and told.channel = channels.channel
                and coalesce(told.raised_at, told.owed_at) > clock_timestamp() - alerts.recur_after
          )
          when alerts.size >= 2 * greatest(tellings.size, alerts.acknowledged_size, 1)
              or (alerts.severity = 'failure' and tellings.severity = 'warning')
              then tellings.raised_at <= clock_timestamp() - %(growth_pause)s::interval
          else tellings.raised_at <= clock_timestamp() - alerts.repeat_after
              and (
                  alerts.acknowledged_at is null
                  or alerts.size >= 2 * greatest(alerts.acknowledged_size, 1)
                  or (alerts.severity = 'failure' and alerts.acknowledged_severity = 'warning')
              )
      end
    union all
    select
        tellings.channel,
        'cleared',
        alerts.*,
        tellings.raised_at is not null,
        false,
        tellings.attempts
    from ops.alerts as alerts
    join ops.alert_tellings as tellings on tellings.alert_id = alerts.alert_id
    where alerts.cleared_at > clock_timestamp() - %(cleared_counts)s::interval
      and tellings.cleared_at is null
      and tellings.channel = any(%(channels)s)
)
select
    channel, kind, alert_id, rule, severity, title, text, remedy, link, ending, first_at, last_at, count, was_told,
    is_new, attempts
from due
order by
    channel,
    attempts,
    kind = 'cleared',
    severity <> 'failure',
    alert_id;
