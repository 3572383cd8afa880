-- Staged archives that were not stored: the hash of the one that was stored for their event; null when the event is unknown.
select staged.position, staged.payload_hash, registry.payload_hash
from staged_message_archive as staged
left join analytics.message_archive_ids as registry on registry.event_id = staged.event_id
where staged.position <> all(%(stored)s)
order by staged.event_id, staged.position;
