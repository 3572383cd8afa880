-- The partitions of a table that is partitioned by ranges of time, with their bounds; nothing for any other table.
select
    partition.oid::regclass::text,
    (regexp_match(bounds.text, 'FROM \(''([^'']+)''\)'))[1]::timestamptz as first_moment,
    (regexp_match(bounds.text, 'TO \(''([^'']+)''\)'))[1]::timestamptz as next_moment
from pg_inherits
join pg_class as partition on partition.oid = pg_inherits.inhrelid
-- `offset 0`: asked once, not again in each place where the text is used. In between, the partition may be dropped.
cross join lateral (select pg_get_expr(partition.relpartbound, partition.oid) as text offset 0) as bounds
where pg_inherits.inhparent = %(parent)s::text::regclass
  and not pg_inherits.inhdetachpending
  and partition.relpartbound is not null
  -- pg_get_expr waits for a partition that is being dropped, and then there are no bounds.
  and bounds.text is not null
order by first_moment;
