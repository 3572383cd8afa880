-- Staged counters that are not stored yet, or stored lower than they read: how many, and the first of them.
select
    s.merchant_id,
    s.date,
    s.metric_type,
    s.counter,
    t.reset_offset,
    t.metric_value,
    count(*) over () as arrears
from staged_merchant as s
left join lateral (
    {stored_counter}
) as t on true
where t.metric_value is null
   or s.counter > t.metric_value - t.reset_offset
order by s.merchant_id, s.date, s.metric_type
limit %(examples)s;
