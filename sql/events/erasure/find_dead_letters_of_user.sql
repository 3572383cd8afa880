-- Dead letters whose bytes hold any of the given ones; which of them are the user's is decided by reading them.
select dead_letter_id
from ops.dead_letters
where exists (
    select 1
    from unnest(%(needles)s::bytea[]) as needle
    where position(needle in raw) > 0
)
order by dead_letter_id;
