-- Days of events that were rolled up and whose events are not all in the table now, newest first: the bounds are those of the given days.
select day.usage_date
from unnest(%(days)s::date[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[]) as day (usage_date, first, until)
where analytics.is_only_archived(day.first, day.until)
   or (
        select coalesce(sum(requests), 0)
        from analytics.usage_daily as stored
        where stored.usage_date = day.usage_date
    ) > (
        select count(*)
        from analytics.usage_events as event
        where event.event_time >= day.first
          and event.event_time < day.until
    )
order by day.usage_date desc
limit 1;
