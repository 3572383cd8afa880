-- What the batches of a family that were applied in a span of time left in {table}: rows, bytes of their values as they are stored, and
-- how many have a value in each nullable column. Ids of batches ascend, so that their range finds them by the BRIN index.
with batches as (
    select batch_id
    from ops.sync_batches
    where family = %(family)s
      and applied_at > %(since)s
      and applied_at <= %(until)s
)
select
    count(*),
    coalesce(sum({sizes}), 0)::bigint,
    array[{counts}]::bigint[]
from (
    select stored.*
    from {table} as stored
    where stored.usage_date = any(%(usage_dates)s)
      and stored.batch_id >= (select min(batch_id) from batches)
      and stored.batch_id <= (select max(batch_id) from batches)
      and stored.batch_id in (select batch_id from batches)
    limit %(most)s
) as part;
