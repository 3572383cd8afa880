-- What the ledger says of these batches: the question of every recovery.
select batch_id, released_at is not null as is_released, usage_dates
from ops.sync_batches
where batch_id = any(%(batch_ids)s);
