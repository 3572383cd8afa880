-- Flags what another Redis server may have forgotten, and returns a row if the family's latest batch came from that other one.
-- By the latest batch, not by the clock: the fail-over may have happened while nothing was drained. Looked for while this
-- server's own batches are young, too: a drainer of the other server may have committed after the first look.
with latest as (
    select redis_server, applied_at
    from ops.sync_batches
    where family = %(family)s
      and redis_server <> 'replay'
    order by applied_at desc
    limit 1
),
flagged as (
    update ops.sync_batches as batches
    set is_uncertain = true
    from latest
    where batches.family = %(family)s
      and batches.applied_at > latest.applied_at - make_interval(secs => %(seconds)s)
      and batches.redis_server not in (%(redis_server)s, 'replay')
      and not batches.is_uncertain
)
select
from latest
where redis_server <> %(redis_server)s;
