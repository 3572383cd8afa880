-- Deletes rows of a part of {table}: the user's, and others' of erased events. Forgets their hashes in {registry}, and counts them.
with deleted as (
    delete from {table}
    where (user_id = %(user_id)s or event_id in (select event_id from erased_event)){within}
    returning event_id
),
forgotten as (
    update {registry} as registry
    set payload_hash = null
    from deleted
    where registry.event_id = deleted.event_id
)
select count(*)
from deleted;
