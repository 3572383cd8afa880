-- Notes that a window was rolled up from what is stored now (the transaction's snapshot).
insert into ops.rolled_windows as t (grain, window_start, rolled_at, rows)
values (%(grain)s, %(window_start)s, now(), %(rows)s)
on conflict (grain, window_start) do update
set rolled_at = excluded.rolled_at,
    rows = excluded.rows;
