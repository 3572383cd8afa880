-- The mark of a span whose rows are dropped in this transaction.
insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept)
values (%(table)s, %(start)s, %(end)s, %(reason)s, %(edges_kept)s);
