-- Stores the staged counters and counts, per day, the rows that are new and the rows that were raised.
-- In key order, so that two aggregations cannot deadlock. Neither condition can overflow, while a sum of offset and counter
-- could; a counter equal to or lower than what is stored leaves its row untouched.
with stored as (
    insert into usage.merchant_usage as t (merchant_id, date, metric_type, metric_value)
    select merchant_id, date, metric_type, counter
    from staged_merchant
    order by merchant_id, date, metric_type
    on conflict (merchant_id, date, metric_type) do update
    set metric_value = t.reset_offset + excluded.metric_value,
        updated_at = now()
    where excluded.metric_value > t.metric_value - t.reset_offset
      and excluded.metric_value <= 9223372036854775807 - t.reset_offset
    returning t.date, t.xmax = 0 as is_new
)
select
    date,
    count(*) filter (where is_new) as inserted,
    count(*) filter (where not is_new) as raised
from stored
group by date;
