-- Notes the hours of a file in which both names of a person occur; times are epoch microseconds.
insert into ops.touched_windows (grain, window_start)
select 'hour', date_trunc('hour', timestamptz 'epoch' + microseconds * interval '1 microsecond', %(timezone)s)
from unnest(%(theirs)s::bigint[]) as event (microseconds)
intersect
select 'hour', date_trunc('hour', timestamptz 'epoch' + microseconds * interval '1 microsecond', %(timezone)s)
from unnest(%(known)s::bigint[]) as event (microseconds);
