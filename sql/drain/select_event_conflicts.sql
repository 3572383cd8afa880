-- Staged events whose id is stored with another payload; equal payloads are retries, and an erased one has no hash.
select staged.position, encode(staged.payload_hash, 'hex'), encode(known.payload_hash, 'hex')
from staged_event as staged
join raw.request_event_ids as known on known.event_id = staged.event_id
where known.payload_hash <> staged.payload_hash
order by staged.position;
