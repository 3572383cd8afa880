-- Opens a regression per counter that reads lower than what is stored, or notes what an open one reads now.
-- In key order, so that two aggregations cannot deadlock.
insert into ops.counter_regressions (merchant_id, date, metric_type, stored_value, counter_value)
select merchant_id, date, metric_type, stored_value, counter_value
from unnest(
    %(merchant_ids)s::text[], %(dates)s::date[], %(metric_types)s::text[],
    %(stored_values)s::bigint[], %(counter_values)s::bigint[]
) as seen (merchant_id, date, metric_type, stored_value, counter_value)
order by merchant_id, date, metric_type
on conflict (merchant_id, date, metric_type) where accepted_at is null do update
set stored_value = excluded.stored_value,
    counter_value = excluded.counter_value,
    last_seen_at = clock_timestamp();
