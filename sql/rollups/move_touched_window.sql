-- Notes another window in place of one.
with gone as (
    delete from ops.touched_windows
    where grain = %(grain)s
      and window_start = %(old)s
)
insert into ops.touched_windows (grain, window_start)
values (%(grain)s, %(new)s);
