-- Sessions that hold a lock on one of our tables or views: whom a migration may wait for.
select activity.pid, activity.usename
from pg_stat_activity as activity
where activity.pid <> pg_backend_pid()
  and exists (
    select
    from pg_locks
    join pg_class on pg_class.oid = pg_locks.relation
    join pg_namespace on pg_namespace.oid = pg_class.relnamespace
    where pg_locks.pid = activity.pid
      and pg_locks.granted
      and pg_locks.database = (select oid from pg_database where datname = current_database())
      and pg_namespace.nspname = any(%(schemas)s)
  )
order by activity.pid;
