-- Marks days of a family stale for their daily table. They count as never rolled up: that they change is no late data.
insert into ops.touched_days as t (family, usage_date)
select %(family)s, usage_date
from unnest(%(days)s::date[]) as usage_date
order by usage_date
on conflict (family, usage_date) do update
set version = t.version + 1,
    touched_at = clock_timestamp(),
    rolled_at = null;
