-- Flags batches that another Redis server than the present one may have forgotten.
update ops.sync_batches
set is_uncertain = true
where batch_id = any(%(batch_ids)s)
  and not is_uncertain;
