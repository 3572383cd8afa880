-- Bytes of the stored latencies of some days.
select coalesce(sum(pg_column_size(latencies_ms)), 0)::bigint
from {source}
where usage_date >= %(first)s
  and usage_date < %(until)s{only}
