-- Days that have roll-ups of events, or whose events wait for them, in the time zone in which they were made.
select usage_date
from analytics.usage_daily
union
select (window_start at time zone %(timezone)s)::date
from ops.touched_windows
where grain in ('hour', 'day')
order by 1;
