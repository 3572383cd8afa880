-- All windows that wait for their roll-up from a moment on, hours and days before the weeks and months that are made from them.
select grain, window_start
from ops.touched_windows
where window_start >= %(first)s
   or grain in ('week', 'month')
group by grain, window_start
order by array_position(array['hour', 'day', 'week', 'month'], grain), window_start;
