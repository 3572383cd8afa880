-- Ends sessions of analysts whose transaction is older than so many seconds: it keeps chunks from being dropped, and migrations waiting.
-- Only those that this user may end: all for a superuser, otherwise those of roles that he is a member of.
select activity.pid, login.rolname, pg_terminate_backend(activity.pid)
from pg_stat_activity as activity
join pg_roles as login on login.oid = activity.usesysid
join pg_roles as analyst on analyst.rolname = %(role)s
where activity.datname = current_database()
  and activity.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
  and not login.rolsuper
  and login.rolname <> current_user
  and pg_has_role(login.oid, analyst.oid, 'member')
  and pg_has_role(login.oid, 'usage');
