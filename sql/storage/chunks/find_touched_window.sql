-- A window that overlaps a span of time, a day wider on each side since windows begin in other time zones, and waits for its roll-up.
select format('the %%s of %%s is not rolled up', grain, to_char(window_start, 'YYYY-MM-DD HH24:MI TZH'))
from ops.touched_windows
where window_start < %(end)s + interval '1 day'
  and window_start + ('1 ' || grain)::interval > %(start)s - interval '1 day'
order by window_start
limit 1;
