-- When rows of a span of time were last read back, within the last day.
select restored_at
from ops.archives
where table_name = %(table)s
  and chunk_start < %(end)s
  and chunk_end > %(start)s
  and restored_at > clock_timestamp() - interval '1 day'
order by restored_at desc
limit 1;
