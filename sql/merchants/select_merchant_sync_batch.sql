-- The last aggregation of a whole day; those of a single merchant have a longer batch id.
select batch_id, applied_at, keys, stored_rows, dead_letters, drained_by
from ops.sync_batches
where family = 'merchant'
  and usage_dates @> array[%(day)s::date]
  and batch_id like '%%/' || %(day)s::date::text
order by applied_at desc, batch_id desc
limit 1;
