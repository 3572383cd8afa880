-- Staged counters that are not what is stored after the upsert (lower, or too large to add), or whose regression is open.
-- The open regression is looked up by index too, hence its limit.
select
    s.merchant_id,
    s.date,
    s.metric_type,
    s.counter,
    t.metric_value,
    t.reset_offset,
    r.regression_id is not null as has_open_regression
from staged_merchant as s
cross join lateral (
    {stored_counter}
) as t
left join lateral (
    select o.regression_id
    from ops.counter_regressions as o
    where o.merchant_id = s.merchant_id
      and o.date = s.date
      and o.metric_type = s.metric_type
      and o.accepted_at is null
    limit 1
) as r on true
where s.counter <> t.metric_value - t.reset_offset
   or r.regression_id is not null
order by s.merchant_id, s.date, s.metric_type;
