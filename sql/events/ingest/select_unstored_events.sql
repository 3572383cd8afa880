-- Staged events that were not stored: the hash of the one that was stored under their id, null when one of its versions was erased.
-- A version that was replaced since is a duplicate: its own hash is the answer.
select
    staged.position,
    staged.payload_hash,
    case
        when exists (
            select
            from analytics.superseded_events as superseded
            where superseded.event_id = staged.event_id
              and superseded.payload_hash is null
        ) then null
        when exists (
            select
            from analytics.superseded_events as superseded
            where superseded.event_id = staged.event_id
              and superseded.payload_hash = staged.payload_hash
        ) then staged.payload_hash
        else registry.payload_hash
    end,
    true
from staged_usage_event as staged
join analytics.usage_event_ids as registry on registry.event_id = staged.event_id
where staged.position <> all(%(stored)s)
order by staged.event_id, staged.position;
