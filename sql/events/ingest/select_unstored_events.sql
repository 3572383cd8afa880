-- Staged events that were not stored: the hash of the one that was stored under their id, null when that was erased.
select staged.position, staged.payload_hash, registry.payload_hash, true
from staged_usage_event as staged
join analytics.usage_event_ids as registry on registry.event_id = staged.event_id
where staged.position <> all(%(stored)s)
order by staged.event_id, staged.position;
