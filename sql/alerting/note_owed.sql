-- A channel is to be told of these alerts: when it takes messages again, and also if they are over by then.
insert into ops.alert_tellings as tellings (alert_id, channel, attempts)
select alerts.alert_id, %(channel)s, %(attempts)s
from ops.alerts as alerts
where alerts.alert_id = any(%(alert_ids)s)
on conflict (alert_id, channel) do update
set attempts = tellings.attempts + excluded.attempts;
