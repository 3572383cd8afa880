-- Seconds since the last sign of life of that name; no row without one.
select extract(epoch from clock_timestamp() - beaten_at)::float as age_seconds
from ops.heartbeats
where name = %(name)s;
