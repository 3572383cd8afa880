-- Notes which version of the day the daily table contains now. A batch that came meanwhile leaves the day stale.
insert into ops.touched_days as t (family, usage_date, version, rolled_version, rolled_at)
values (%(family)s, %(usage_date)s, %(version)s, %(version)s, clock_timestamp())
on conflict (family, usage_date) do update
set rolled_version = greatest(t.rolled_version, excluded.rolled_version),
    rolled_at = excluded.rolled_at;
