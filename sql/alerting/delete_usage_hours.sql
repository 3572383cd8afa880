-- Hours that are too old for any history.
delete from ops.usage_hours
where hour_start < %(before)s;
