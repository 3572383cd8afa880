-- Per day, how far what is stored is behind the staged counters.
select s.date, sum(s.counter - coalesce(t.metric_value - t.reset_offset, 0)) as behind
from staged_merchant as s
left join lateral (
    select u.metric_value, u.reset_offset
    from usage.merchant_usage as u
    where u.merchant_id = s.merchant_id
      and u.date = s.date
      and u.metric_type = s.metric_type
    limit 1
) as t on true
where s.counter > coalesce(t.metric_value - t.reset_offset, 0)
group by s.date
order by s.date;
