-- Notes that the sums of a day are back in its raw table.
update ops.dropped_spans
set returned_at = clock_timestamp()
where table_name = %(table)s
  and returned_at is null
  and span_start < %(end)s
  and span_end > %(start)s;
