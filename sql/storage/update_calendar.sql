-- Notes the time zone that bounds days, for views; the row stays untouched when nothing changed.
update ops.calendar
set time_zone = %(time_zone)s,
    noted_at = clock_timestamp()
where time_zone <> %(time_zone)s;
