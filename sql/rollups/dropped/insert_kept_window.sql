-- Notes that what dropped events add to a window is set aside.
insert into ops.kept_windows (grain, first_moment, end_moment, usage_date)
values (%(grain)s, %(first)s, %(until)s, %(usage_date)s)
on conflict (grain, first_moment) do nothing;
