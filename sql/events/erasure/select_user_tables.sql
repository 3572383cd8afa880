-- Tables of analytics that have a user_id; not their partitions, not views.
select format('%I.%I', pg_namespace.nspname, pg_class.relname)
from pg_class
join pg_namespace on pg_namespace.oid = pg_class.relnamespace
join pg_attribute on pg_attribute.attrelid = pg_class.oid
where pg_namespace.nspname = 'analytics'
  and pg_class.relkind in ('r', 'p')
  and not pg_class.relispartition
  and pg_attribute.attname = 'user_id'
  and not pg_attribute.attisdropped
order by 1;
