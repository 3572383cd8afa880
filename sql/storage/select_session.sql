-- What these settings of the session are now.
select asked.name, current_setting(asked.name)
from unnest(%(names)s::text[]) as asked (name);
