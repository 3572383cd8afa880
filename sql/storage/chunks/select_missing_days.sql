-- Which of the given days have no partition yet: a partition is named <parent>_<yyyymmdd>.
select day
from unnest(%(days)s::date[]) as day
where not exists (
    select 1
    from pg_inherits
    join pg_class on pg_class.oid = pg_inherits.inhrelid
    where pg_inherits.inhparent = %(parent)s::text::regclass
      and pg_class.relname = split_part(%(parent)s::text, '.', 2) || to_char(day, '"_"YYYYMMDD')
)
order by day;
