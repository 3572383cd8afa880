-- Uses of one hour from raw: the hour of a delta is that of the earlier of its last use and its claim, as its day is.
insert into ops.usage_hours (family, id, hour_start, uses)
select
    %(family)s,
    deltas.{id},
    %(hour)s,
    sum(deltas.{uses})
from {raw} as deltas
join ops.sync_batches as batches on batches.batch_id = deltas.batch_id
where deltas.usage_date between (%(hour)s::timestamptz at time zone %(time_zone)s)::date
    and ((%(hour)s::timestamptz + interval '1 hour') at time zone %(time_zone)s)::date
  and deltas.batch_id >= %(first_batch)s
  and least(deltas.last_used_at, batches.claimed_at) >= %(hour)s
  and least(deltas.last_used_at, batches.claimed_at) < %(hour)s::timestamptz + interval '1 hour'
group by deltas.{id}
having sum(deltas.{uses}) > 0
on conflict (family, id, hour_start) do update
set uses = excluded.uses;
