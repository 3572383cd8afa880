-- Per day, how far what is stored is behind the staged counters.
select s.date, sum(s.counter - coalesce(t.metric_value - t.reset_offset, 0)) as behind
from staged_merchant as s
left join lateral (
    {stored_counter}
) as t on true
where s.counter > coalesce(t.metric_value - t.reset_offset, 0)
group by s.date
order by s.date;
