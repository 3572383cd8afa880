-- Hours of that time that have requests, rolled up or not yet.
select hour_start
from analytics.usage_hourly
where hour_start >= %(first)s
  and hour_start < %(until)s
union
select window_start
from ops.touched_windows
where grain = 'hour'
  and window_start >= %(first)s
  and window_start < %(until)s
order by 1;
