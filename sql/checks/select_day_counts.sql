-- Events of each day in the table, in the registry, and in the roll-ups (null while they miss something); one snapshot.
-- Days with events that are only in archives, or were dropped, are left out: the table does not tell all of these days.
with day as (
    select generate_series(%(first_day)s::date, %(last_day)s::date, interval '1 day')::date as usage_date
),
stored as (
    select (event_time at time zone %(timezone)s)::date as usage_date, count(*) as events
    from analytics.usage_events
    where event_time >= %(first)s
      and event_time < %(until)s
    group by 1
),
registered as (
    select (event_time at time zone %(timezone)s)::date as usage_date, count(*) as events
    from analytics.usage_event_ids
    where event_time >= %(first)s
      and event_time < %(until)s
      -- Ids of events that were taken out stay.
      and not exists (
        select
        from analytics.voided_events
        where voided_events.event_id = usage_event_ids.event_id
      )
    group by 1
),
hourly as (
    select (hour_start at time zone %(timezone)s)::date as usage_date, sum(requests)::bigint as requests
    from analytics.usage_hourly
    where hour_start >= %(first)s
      and hour_start < %(until)s
    group by 1
),
daily as (
    select usage_date, sum(requests)::bigint as requests
    from analytics.usage_daily
    where usage_date between %(first_day)s and %(last_day)s
    group by 1
),
stale as (
    select distinct grain, (window_start at time zone %(timezone)s)::date as usage_date
    from ops.touched_windows
    where grain in ('hour', 'day')
      and window_start >= %(first)s
      and window_start < %(until)s
)
select
    usage_date,
    coalesce(stored.events, 0) as stored,
    coalesce(registered.events, 0) as registered,
    case when not exists (select 1 from stale where stale.grain = 'hour' and stale.usage_date = day.usage_date)
        then coalesce(hourly.requests, 0) end as hourly,
    case when not exists (select 1 from stale where stale.grain = 'day' and stale.usage_date = day.usage_date)
        then coalesce(daily.requests, 0) end as daily
from day
left join stored using (usage_date)
left join registered using (usage_date)
left join hourly using (usage_date)
left join daily using (usage_date)
where not analytics.is_only_archived(
    day.usage_date::timestamp at time zone %(timezone)s,
    (day.usage_date + 1)::timestamp at time zone %(timezone)s
)
  -- Days of an earlier time zone, and the one after them, have other bounds than these.
  and not exists (
    select 1
    from ops.zone_borders
    where first_day >= day.usage_date
)
order by usage_date;
