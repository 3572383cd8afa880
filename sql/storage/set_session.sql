-- Sets what a session relies on, and returns what it then is, where, and whether another of our sessions was here before.
-- Of commits only `off` changes: other values are about standbys.
with before as materialized (select current_setting('usage_pipeline.session', true) as mark)
select wanted.name, set_config(wanted.name, wanted.value, false), pg_backend_pid(), before.mark
from before
cross join unnest(%(names)s::text[], %(values)s::text[]) as wanted (name, value)
where wanted.name <> 'synchronous_commit' or current_setting('synchronous_commit') = 'off';
