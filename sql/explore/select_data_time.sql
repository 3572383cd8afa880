-- As of when roll-ups of this range are: all that was stored before the oldest change that they lack, or all of it.
select coalesce(min(touched_at), now())
from ops.touched_windows
where grain = %(grain)s
  and window_start >= %(start)s
  and window_start < %(end)s
