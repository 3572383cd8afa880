-- What PostgreSQL's statistics say of a table: rows (-1: not analyzed yet), and the share of nulls in each column, null without statistics.
select
    tables.reltuples::bigint,
    (
        select jsonb_object_agg(stats.attname, stats.null_frac)
        from pg_stats as stats
        where stats.schemaname = namespaces.nspname
          and stats.tablename = tables.relname
    )
from pg_class as tables
join pg_namespace as namespaces on namespaces.oid = tables.relnamespace
where tables.oid = %(table)s::text::regclass;
