-- Pins a day to another price version and makes the day and its hours stale, so that they follow even if nobody is there
-- to replace them at once. Changes nothing when the day has that version.
with pinned as (
    insert into analytics.day_prices as t (usage_date, day_start, day_end, price_version)
    values (%(usage_date)s, %(day_start)s, %(day_end)s, %(price_version)s)
    on conflict (usage_date) do update
    set price_version = excluded.price_version,
        pinned_at = clock_timestamp()
    where t.price_version <> excluded.price_version
    returning 1
)
insert into ops.touched_windows (grain, window_start)
select rolled.grain, rolled.window_start
from ops.rolled_windows as rolled
where exists (select 1 from pinned)
  and (
    (rolled.grain = 'day' and rolled.window_start = %(window_start)s)
    or (rolled.grain = 'hour' and rolled.window_start >= %(day_start)s and rolled.window_start < %(day_end)s)
  );
