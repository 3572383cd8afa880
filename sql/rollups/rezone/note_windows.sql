-- Forgets what was rolled up from a moment on in the earlier zone, and notes the windows of the new one that must be made instead.
-- An hour of the earlier zone may lie in two of the new one. Where hours are the same moments, they stay as they are. Days that wait
-- before that moment are noted as days of the new zone, like all that comes late for them: `windows_to_make` knows what they are.
with old_hours as (
    select hour_start
    from analytics.usage_hourly
    where hour_start >= %(first)s
      and %(hours_move)s
    union
    select window_start
    from ops.touched_windows
    where grain = 'hour'
      and window_start >= %(first)s
),
unrolled as (
    delete from ops.rolled_windows
    where (grain = 'hour' and %(hours_move)s and window_start >= %(first)s)
       or (grain = 'day' and window_start >= %(first)s - interval '1 day')
       or (grain in ('week', 'month') and window_start >= %(first)s - interval '32 days')
),
untouched as (
    delete from ops.touched_windows
    where window_start >= %(first)s
       or grain <> 'hour'
),
unstored as (
    delete from analytics.usage_hourly
    where hour_start >= %(first)s
      and %(hours_move)s
)
insert into ops.touched_windows (grain, window_start)
select distinct 'hour', date_trunc('hour', moment, %(timezone)s)
from old_hours
cross join lateral unnest(array[hour_start, hour_start + interval '1 hour' - interval '1 microsecond']) as moment
union all
select distinct 'day', date_trunc('day', moment, %(timezone)s)
from ops.touched_windows
cross join lateral unnest(array[window_start, window_start + interval '1 day' - interval '1 microsecond']) as moment
where grain = 'day'
  and window_start < %(first)s
union all
select 'day', day_start
from unnest(%(days)s::timestamptz[]) as day_start
union all
select 'week', week_start
from unnest(%(weeks)s::timestamptz[]) as week_start
union all
select 'month', month_start
from unnest(%(months)s::timestamptz[]) as month_start;
