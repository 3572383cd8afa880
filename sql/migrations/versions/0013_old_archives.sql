-- Stored message archives that would have another hash now, since a text is empty. What the hash is made of.
select
    event_id,
    registry.payload_hash,
    user_id,
    service,
    prompt_full,
    response_full
from analytics.message_archives
join analytics.message_archive_ids as registry using (event_id)
where prompt_full = ''
   or response_full = '';
