-- Weeks and months that wait for their roll-up, by their first day in the time zone in which they were noted.
select distinct grain, (window_start at time zone %(timezone)s)::date
from ops.touched_windows
where grain in ('week', 'month');
