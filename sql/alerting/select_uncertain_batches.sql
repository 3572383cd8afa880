-- Uncertain batches since a time in one row, or none; a partial index holds just these.
select
    count(*) as count,
    sum(keys)::bigint as keys,
    max(applied_at) as newest_at
from ops.sync_batches
where is_uncertain
  and applied_at >= %(since)s
having count(*) > 0;
