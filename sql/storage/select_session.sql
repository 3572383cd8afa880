-- What these settings of the session are now, and on which server.
select asked.name, current_setting(asked.name, true), pg_backend_pid()
from unnest(%(names)s::text[]) as asked (name);
