-- Stores the staged counters and counts, per day, the rows that are new and the rows that were raised.
-- In key order, so that two aggregations cannot deadlock. Neither condition can overflow, while a sum of offset and counter
-- could; a counter equal to or lower than what is stored leaves its row untouched. So does one that was lost before and may be back
-- with what is in the offset: if an odometer says that Redis changed since, or else if it jumps to about what it was.
with stored as (
    insert into usage.merchant_usage as t (merchant_id, date, metric_type, metric_value)
    select merchant_id, date, metric_type, counter
    from staged_merchant
    order by merchant_id, date, metric_type
    on conflict (merchant_id, date, metric_type) do update
    set metric_value = t.reset_offset + excluded.metric_value,
        updated_at = clock_timestamp()
    where excluded.metric_value > t.metric_value - t.reset_offset
      and excluded.metric_value <= 9223372036854775807 - greatest(t.reset_offset, 0)
      and case
          when t.reset_offset = 0 then true
          when exists (
              select
              from ops.odometers as o
              where o.family = 'merchant'
                and o.usage_date = t.date
          ) then not exists (
              select
              from ops.odometers as o
              where o.family = 'merchant'
                and o.usage_date = t.date
                and o.changed_at > t.updated_at
          )
          else not exists (
              select
              from ops.counter_regressions as r
              where r.merchant_id = t.merchant_id
                and r.date = t.date
                and r.metric_type = t.metric_type
                and r.counter_before / 2 > t.metric_value - t.reset_offset
                and excluded.metric_value - r.counter_before between 0 and r.counter_before / 4
          )
      end
    returning t.date, t.xmax = 0 as is_new
)
select
    date,
    count(*) filter (where is_new) as inserted,
    count(*) filter (where not is_new) as raised
from stored
group by date;
