-- The keys of these batches are durably gone from Redis.
update ops.sync_batches
set released_at = clock_timestamp()
where batch_id = any(%(batch_ids)s)
  and released_at is null;
