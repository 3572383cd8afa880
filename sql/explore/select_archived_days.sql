-- Days with usage whose events are no longer all in the table: in archive files, or dropped. Of what a bound token may see.
select asked.day
from unnest(%(days)s::date[], %(firsts)s::timestamptz[], %(ends)s::timestamptz[]) as asked (day, first, until)
where analytics.is_only_archived(asked.first, asked.until)
  and exists (
    select 1
    from {usage}
    where usage_date = asked.day{within}
)
order by asked.day
