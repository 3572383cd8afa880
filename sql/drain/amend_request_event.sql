-- Completes a stored request event by what a replay made right: its time, and with it its day, or members that nobody knows.
-- Another day is another partition, so the row is deleted and inserted. The hash of its payload stays as it is: a sender that
-- sends the item again sends what was refused.
with taken as (
    delete from raw.request_events as stored
    using raw.request_event_ids as known
    where known.event_id = %(event_id)s
      and stored.usage_date = known.usage_date
      and stored.event_id = known.event_id
    returning stored.*
),
registered as (
    update raw.request_event_ids as known
    set usage_date = %(usage_date)s
    from taken
    where known.event_id = taken.event_id
      and %(usage_date)s::date is not null
)
insert into raw.request_events (
    usage_date, batch_id, event_id, api_key_id, user_id, provider, event_type, file_size, status, at, extra
)
select
    coalesce(%(usage_date)s, usage_date),
    batch_id,
    event_id,
    api_key_id,
    user_id,
    provider,
    event_type,
    file_size,
    status,
    coalesce(%(at)s, at),
    case when %(extra)s::jsonb is null then extra else coalesce(extra, '{}'::jsonb) || %(extra)s::jsonb end
from taken
returning usage_date;
