-- An hour or day that overlaps a span of time and waits for its roll-up, which needs the events; weeks and months need none.
select format('the %%s of %%s is not rolled up', grain, to_char(window_start, 'YYYY-MM-DD HH24:MI TZH'))
from ops.touched_windows
where grain in ('hour', 'day')
  and window_start < %(end)s
  and window_start + ('1 ' || grain)::interval > %(start)s
order by window_start
limit 1;
