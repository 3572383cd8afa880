-- Closed windows of a grain whose events changed some time ago and that are not rolled up since.
select window_start, min(touched_at) as touched_at
from ops.touched_windows
where grain = %(grain)s
  and window_start < date_trunc(%(grain)s, %(now)s - interval '2 hours', %(timezone)s)
group by window_start
having min(touched_at) < %(now)s - interval '2 hours'
order by window_start
limit %(most)s;
