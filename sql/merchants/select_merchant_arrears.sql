-- Staged counters that are not stored yet, or stored lower than they read: how many, and the first of them.
-- Lateral with a limit: one index look-up per staged row, whatever the planner thinks of a table without statistics.
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
    select u.metric_value, u.reset_offset
    from usage.merchant_usage as u
    where u.merchant_id = s.merchant_id
      and u.date = s.date
      and u.metric_type = s.metric_type
    limit 1
) as t on true
where t.metric_value is null
   or s.counter > t.metric_value - t.reset_offset
order by s.merchant_id, s.date, s.metric_type
limit %(examples)s;
