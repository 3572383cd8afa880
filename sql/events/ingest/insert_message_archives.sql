-- Stores each staged archive whose event is known and has none yet, the first of equal ids; in id order, against deadlocks.
with first_of_its_id as (
    select distinct on (event_id)
        event_id,
        payload_hash,
        position
    from staged_message_archive
    order by event_id, position
),
registered as (
    insert into analytics.message_archive_ids (event_id, payload_hash)
    select first_of_its_id.event_id, first_of_its_id.payload_hash
    from first_of_its_id
    join analytics.usage_event_ids on usage_event_ids.event_id = first_of_its_id.event_id
    order by first_of_its_id.event_id
    on conflict (event_id) do nothing
    returning event_id
),
stored as (
    select first_of_its_id.position
    from registered
    join first_of_its_id on first_of_its_id.event_id = registered.event_id
),
inserted as (
    insert into analytics.message_archives (event_id, event_time, user_id, service, prompt_full, response_full)
    select
        staged.event_id,
        usage_event_ids.event_time,
        staged.user_id,
        staged.service,
        staged.prompt_full,
        staged.response_full
    from staged_message_archive as staged
    join stored on stored.position = staged.position
    join analytics.usage_event_ids on usage_event_ids.event_id = staged.event_id
)
select coalesce(array_agg(position), '{}')
from stored;
