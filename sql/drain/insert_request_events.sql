-- Stores each staged event whose id is new, the first of equal ids; the registry makes ids unique over all days.
-- In id order, so that two drainers with overlapping ids cannot deadlock.
with registered as (
    insert into raw.request_event_ids (event_id, usage_date, payload_hash)
    select distinct on (event_id)
        event_id,
        usage.day_of(last_used_at, %(claimed_at)s, %(timezone)s),
        payload_hash
    from staged_event
    order by event_id, position
    on conflict (event_id) do nothing
    returning event_id, usage_date
),
first_of_its_id as (
    select distinct on (event_id) *
    from staged_event
    order by event_id, position
)
insert into raw.request_events (
    usage_date, batch_id, event_id, api_key_id, user_id, provider, event_type, file_size, status, at, extra
)
select
    registered.usage_date,
    %(batch_id)s,
    staged.event_id,
    staged.api_key_id,
    staged.user_id,
    staged.provider,
    staged.event_type,
    staged.file_size,
    staged.status,
    staged.last_used_at,
    staged.extra
from first_of_its_id as staged
join registered on registered.event_id = staged.event_id
order by staged.position;
