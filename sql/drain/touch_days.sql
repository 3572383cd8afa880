-- Marks days stale for their daily tables; ordered, and before the totals, so that two drainers cannot deadlock.
insert into ops.touched_days as t (family, usage_date)
select %(family)s, usage_date
from unnest(%(usage_dates)s::date[]) as usage_date
order by usage_date
on conflict (family, usage_date) do update
set version = t.version + 1,
    touched_at = clock_timestamp();
