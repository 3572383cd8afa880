-- All tables and views of our schemas with their comments, and their columns with types and comments, in order; of partitioned
-- tables the whole only.
select
    namespaces.nspname || '.' || tables.relname,
    coalesce(obj_description(tables.oid, 'pg_class'), ''),
    attributes.attname,
    format_type(attributes.atttypid, attributes.atttypmod),
    not attributes.attnotnull,
    coalesce(col_description(tables.oid, attributes.attnum), '')
from pg_class as tables
join pg_namespace as namespaces on namespaces.oid = tables.relnamespace
join pg_attribute as attributes on attributes.attrelid = tables.oid
where namespaces.nspname = any(%(schemas)s)
  and tables.relkind in ('r', 'p', 'v')
  and not tables.relispartition
  and attributes.attnum > 0
  and not attributes.attisdropped
order by namespaces.nspname, tables.relname, attributes.attnum;
