-- Forgets the hashes of events in {registry} whose rows are in a file.
update {registry}
set payload_hash = null
where event_id = any(%(event_ids)s::uuid[]);
