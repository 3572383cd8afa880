-- How many messages of each rule a channel got lately, of each kind. Those that were told together count once.
select channel, kind, rule, count(distinct told_at)
from (
    select tellings.channel, 'raised' as kind, alerts.rule, tellings.raised_at as told_at
    from ops.alert_tellings as tellings
    join ops.alerts as alerts on alerts.alert_id = tellings.alert_id
    where tellings.channel = any(%(channels)s)
      and tellings.raised_at > clock_timestamp() - %(lately)s::interval
    union all
    select tellings.channel, 'cleared', alerts.rule, tellings.cleared_at
    from ops.alert_tellings as tellings
    join ops.alerts as alerts on alerts.alert_id = tellings.alert_id
    where tellings.channel = any(%(channels)s)
      and tellings.cleared_at > clock_timestamp() - %(lately)s::interval
) as told
group by channel, kind, rule;
