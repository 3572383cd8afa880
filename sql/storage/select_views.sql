-- The views of these schemas with their definitions, and the tables and views that each reads itself, as PostgreSQL keeps them.
select
    namespaces.nspname || '.' || views.relname,
    pg_get_viewdef(views.oid),
    array(
        select distinct sources.nspname || '.' || source.relname
        from pg_rewrite as rules
        join pg_depend as needs
            on needs.classid = 'pg_rewrite'::regclass
            and needs.objid = rules.oid
            and needs.refclassid = 'pg_class'::regclass
        join pg_class as source on source.oid = needs.refobjid
        join pg_namespace as sources on sources.oid = source.relnamespace
        where rules.ev_class = views.oid
          and source.oid <> views.oid
        order by 1
    )
from pg_class as views
join pg_namespace as namespaces on namespaces.oid = views.relnamespace
where namespaces.nspname = any(%(schemas)s)
  and views.relkind = 'v'
order by 1;
