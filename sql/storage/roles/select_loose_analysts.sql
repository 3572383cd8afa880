-- Logins with the role of the analysts that have no limits, or a door to the lock table that all databases share.
with analysts as (
    select login.rolname, login.rolconnlimit, coalesce(login.rolconfig, '{}') as settings
    from pg_roles as login
    join pg_roles as analyst on analyst.rolname = %(role)s
    where login.rolcanlogin
      and not login.rolsuper
      -- Since version 16, who made a role is a member of it that may give it to others, and nothing else.
      and (
          pg_has_role(login.oid, analyst.oid, 'usage')
          or pg_has_role(
              login.oid,
              analyst.oid,
              case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
          )
      )
      -- Whoever made the role may be a member of it.
      and login.rolname <> current_user
)
select rolname, 'has no connection limit' as fault
from analysts
where rolconnlimit = -1
union all
select rolname, 'has no statement_timeout'
from analysts
where not exists (select from unnest(settings) as setting where setting like 'statement_timeout=%%')
union all
select rolname, 'can fill the disk by the log of the server, has no log_min_messages'
from analysts
where not exists (
    select from unnest(settings) as setting where setting in ('log_min_messages=fatal', 'log_min_messages=panic')
)
union all
select rolname, format('may connect to the database %%s, where it can fill the lock table of the server', datname)
from analysts
cross join pg_database
where datallowconn
  and datname <> current_database()
  and has_database_privilege(rolname, datname, 'connect')
order by 1, 2;
