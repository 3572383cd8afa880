-- Which texts of staged message archives are other than the stored ones of their events, and what the clients call these events.
-- Null: the stored archive is in an archive file, or was erased.
select
    staged.position,
    event.source,
    event.external_id,
    case when stored.event_id is not null then said.other end as differs
from staged_message_archive as staged
left join analytics.usage_event_ids as known on known.event_id = staged.event_id
left join analytics.usage_events as event
    on event.event_id = known.event_id
    and event.event_time = known.event_time
left join analytics.message_archives as stored
    on stored.event_id = known.event_id
    and stored.event_time = known.event_time
cross join lateral (
    select array_remove(array[
        case when staged.prompt_full is distinct from stored.prompt_full then 'prompt_full' end,
        case when staged.response_full is distinct from stored.response_full then 'response_full' end,
        case when staged.service is distinct from stored.service then 'service' end,
        case when staged.user_id is distinct from stored.user_id then 'user_id' end
    ], null) as other
) as said;
