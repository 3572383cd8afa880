-- What the roles of our processes need of what is closed to everybody, and do not have; and the statements that give it.
with roles as (
    select rolname as role
    from pg_roles
    where rolname = any(%(roles)s)
)
select role || ' may not take advisory locks', format('grant execute on function %%s to %%I', oid::regprocedure, role)
from roles
cross join pg_proc
where pronamespace = 'pg_catalog'::regnamespace
  and proname ~ '^pg_(try_)?advisory_(xact_)?lock'
  and not has_function_privilege(role, pg_proc.oid, 'execute')
union all
select role || ' may not make temporary tables', format('grant temporary on database %%I to %%I', current_database(), role)
from roles
where not has_database_privilege(role, current_database(), 'temporary')
union all
select role || ' may not connect', format('grant connect on database %%I to %%I', current_database(), role)
from roles
where not has_database_privilege(role, current_database(), 'connect')
order by 1;
