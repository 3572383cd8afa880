-- Notes what an odometer counts in a life.
insert into ops.odometer_lives (family, usage_date, life, base, counted)
values (%(family)s, %(usage_date)s, %(life)s, %(base)s, %(counted)s)
on conflict (family, usage_date, life) do update
set counted = excluded.counted;
