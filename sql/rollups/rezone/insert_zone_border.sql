-- Where the days of an earlier time zone end.
insert into ops.zone_borders (first_moment, first_day, earlier_zone)
values (%(first_moment)s, %(first_day)s, %(earlier_zone)s)
on conflict (first_moment) do update
set first_day = excluded.first_day,
    noted_at = clock_timestamp();
