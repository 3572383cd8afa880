-- Batches that were applied but whose keys are not known to be gone; served by the partial index.
select batch_id
from ops.sync_batches
where family = %(family)s
  and released_at is null
order by batch_id;
