-- Notes the windows in which both names of a person occur: they count one person as two, and are made again.
with names as (
    select
        event_time as moment,
        user_id
    from analytics.usage_events
    where user_id in (%(user_id)s, %(pseudonym)s)
),
days as (
    select
        (usage_date + time '12:00') at time zone %(timezone)s as moment,
        user_id
    from analytics.usage_user_daily
    where user_id in (%(user_id)s, %(pseudonym)s)
),
common as (
    select 'hour' as grain, date_trunc('hour', moment, %(timezone)s) as window_start
    from names
    group by 2
    having count(distinct user_id) = 2
    union all
    select grains.grain, date_trunc(grains.grain, moment, %(timezone)s)
    from days
    cross join (values ('day'), ('week'), ('month')) as grains (grain)
    group by 1, 2
    having count(distinct user_id) = 2
)
insert into ops.touched_windows (grain, window_start)
select grain, window_start
from common
-- A day is made of its events. Of a day whose events are gone, only weeks and months can be made again.
where grain <> 'day'
   or exists (
    select 1
    from analytics.usage_event_ids
    where event_time >= window_start
      and event_time < window_start + interval '23 hours'
   );
