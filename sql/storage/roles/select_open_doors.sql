-- What PostgreSQL lets everybody do, by which one session stops all others or fills the disk; and the statements that end it.
-- Unlocking stays open: it harms nobody, and drivers do it when they take a connection out of a pool.
with functions as (
    select oid::regprocedure::text as signature
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and proname ~ '^(pg_(try_)?advisory_(xact_)?lock|lo_|loread$|lowrite$|pg_logical_emit_message$)'
      and has_function_privilege('public', oid, 'execute')
)
select signature as door, format('revoke execute on function %%s from public', signature) as closing
from functions
union all
select 'temporary tables', format('revoke temporary on database %%I from public', current_database())
where has_database_privilege('public', current_database(), 'temporary')
union all
select
    'tables in the schema public',
    -- Who has tables there already, such as Dagster in the same database, goes on making them.
    coalesce(string_agg(format('grant create on schema public to %%I; ', rolname), ''), '')
    || 'revoke create on schema public from public'
from pg_roles
where not rolsuper
  and exists (select from pg_class where relowner = pg_roles.oid and relnamespace = 'public'::regnamespace)
having has_schema_privilege('public', 'public', 'create')
order by door;
