-- Sets what a session relies on, and returns what it then is. Of commits only `off` changes: other values are about standbys.
select wanted.name, set_config(wanted.name, wanted.value, false)
from unnest(%(names)s::text[], %(values)s::text[]) as wanted (name, value)
where wanted.name <> 'synchronous_commit' or current_setting('synchronous_commit') = 'off';
