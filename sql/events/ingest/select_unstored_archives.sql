-- Staged archives that were not stored: the hash of the one of their event, null when erased; and whether the event is known.
select staged.position, staged.payload_hash, registry.payload_hash, registry.event_id is not null
from staged_message_archive as staged
left join analytics.message_archive_ids as registry on registry.event_id = staged.event_id
where staged.position <> all(%(stored)s)
order by staged.event_id, staged.position;
