-- Keys that a batch applied, stored or refused; only these may be released. The days spare all other partitions.
select convert_to(source_key, 'UTF8')
from {raw_table}
where usage_date = any(%(usage_dates)s)
  and batch_id = %(batch_id)s
union all
select source_key
from ops.dead_letters
where batch_id = %(batch_id)s;
