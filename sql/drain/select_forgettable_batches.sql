-- Batches that another Redis server than this one may have forgotten, and whether the family's latest batch came from another one.
-- By the latest batch, not by the clock: the fail-over may have happened while nothing was drained. Looked for while this
-- server's own batches are young, too: a drainer of the other server may have committed after the first look.
with latest as (
    select redis_server, applied_at
    from ops.sync_batches
    where family = %(family)s
      and redis_server <> 'replay'
    order by applied_at desc
    limit 1
)
select
    batches.batch_id,
    batches.redis_server,
    batches.is_uncertain,
    latest.redis_server <> %(redis_server)s
from ops.sync_batches as batches
cross join latest
where batches.family = %(family)s
  and batches.applied_at > latest.applied_at - make_interval(secs => %(seconds)s)
  and batches.redis_server not in (%(redis_server)s, 'replay')
order by batches.batch_id;
