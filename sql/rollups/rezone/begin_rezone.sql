-- Notes the new time zone, and that days are being made again in it.
update ops.calendar
set time_zone = %(time_zone)s,
    noted_at = case when time_zone = %(time_zone)s then noted_at else clock_timestamp() end,
    rezoning_since = coalesce(rezoning_since, clock_timestamp());
