-- A sign of life, and what its sender remembers.
insert into ops.heartbeats (name, details)
values (%(name)s, %(details)s)
on conflict (name) do update
set
    beaten_at = excluded.beaten_at,
    details = excluded.details;
