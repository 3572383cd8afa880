-- Spans of a table whose rows were dropped, oldest first.
select span_start, span_end
from ops.dropped_spans
where table_name = %(table)s
  and returned_at is null
order by span_start, span_end;
