-- Alerts that were over long ago.
delete from ops.alerts
where cleared_at < %(before)s;
