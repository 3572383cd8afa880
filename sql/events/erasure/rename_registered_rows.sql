-- Gives the user's rows of a part of {table} the pseudonym, forgets their hashes in {registry}, and counts them.
with renamed as (
    update {table}
    set user_id = %(pseudonym)s{cleared}
    where user_id = %(user_id)s{within}
    returning event_id
),
forgotten as (
    update {registry} as registry
    set payload_hash = null
    from renamed
    where registry.event_id = renamed.event_id
)
select count(*)
from renamed;
