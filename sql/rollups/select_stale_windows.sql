-- Closed windows that changed after their roll-up, oldest first. A week or month waits for the days in it.
with stale as (
    select
        grain,
        window_start,
        max(touched_at) as touched_at
    from ops.touched_windows
    where window_start < date_trunc(grain, %(now)s, %(timezone)s)
    group by grain, window_start
)
select grain, window_start, touched_at
from stale
where grain in ('hour', 'day')
   or not exists (
    select 1
    from ops.touched_windows as inner_day
    where inner_day.grain = 'day'
      and date_trunc(stale.grain, inner_day.window_start, %(timezone)s) = stale.window_start
   )
order by window_start, grain
limit %(most)s;
