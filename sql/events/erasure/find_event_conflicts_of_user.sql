-- Conflicting input whose bytes hold any of the given ones; which of it is the user's is decided by reading it.
select event_conflict_id
from ops.event_conflicts
where exists (
    select 1
    from unnest(%(needles)s::bytea[]) as needle
    where position(needle in other_payload) > 0
)
order by event_conflict_id;
