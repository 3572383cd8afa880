-- The notes that an hour or day waits for its roll-up, also those that were written in an earlier time zone.
select ctid::text, touched_at
from ops.touched_windows
where grain = %(grain)s
  and case grain
        when 'hour' then window_start
        else date_trunc(grain, window_start, %(timezone)s)
    end = %(window_start)s;
