-- Removes the hashes from the reason of a conflict of request events, where the stored event is erased or gone.
update ops.dead_letters as letter
set reason = regexp_replace(letter.reason, ' \(hash [0-9a-f]+\)', '', 'g')
where letter.family = 'event'
  and starts_with(letter.reason, 'event_id: expected the stored payload (hash ')
  and not exists (
    select 1
    from raw.request_event_ids as registry
    where registry.payload_hash = decode(substring(letter.reason from '\(hash ([0-9a-f]+)\)'), 'hex')
  );
