-- Opens a regression per counter that reads other than it should, or notes what an open one reads now.
-- In key order, so that two aggregations cannot deadlock.
insert into ops.counter_regressions as t (merchant_id, date, metric_type, stored_value, counter_value, fell_to)
select merchant_id, date, metric_type, stored_value, counter_value, counter_value
from unnest(
    %(merchant_ids)s::text[], %(dates)s::date[], %(metric_types)s::text[],
    %(stored_values)s::bigint[], %(counter_values)s::bigint[]
) as seen (merchant_id, date, metric_type, stored_value, counter_value)
order by merchant_id, date, metric_type
on conflict (merchant_id, date, metric_type) where accepted_at is null do update
set stored_value = excluded.stored_value,
    counter_value = excluded.counter_value,
    fell_to = case
        when exists (
            select
            from ops.odometers as o
            where o.family = 'merchant'
              and o.usage_date = t.date
              and o.changed_at > t.last_seen_at
        ) then excluded.fell_to
        else least(t.fell_to, excluded.fell_to)
    end,
    last_seen_at = clock_timestamp();
