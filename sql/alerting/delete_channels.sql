-- Channels that have not been in ALERT_URLS for long.
delete from ops.alert_channels
where seen_at < %(before)s;
