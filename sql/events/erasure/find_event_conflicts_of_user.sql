-- Conflicting input that may hold a user's id; reading it decides. Text with a backslash may spell the id otherwise.
select event_conflict_id
from ops.event_conflicts
where %(may_be_number)s
   or position('\x5c'::bytea in other_payload) > 0
   or exists (
    select 1
    from unnest(%(needles)s::bytea[]) as needle
    where position(needle in other_payload) > 0
)
order by event_conflict_id;
