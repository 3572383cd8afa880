-- The same of message archives. One of an event that its sender may not see is none of them.
select count(*)
from unnest(%(ids)s::uuid[], %(own_ids)s::uuid[], %(hashes)s::text[]) as sent (event_id, own_id, payload_hash)
left join analytics.usage_event_ids as own
    on own.event_id = sent.own_id
    and own.binding_id = %(binding_id)s::uuid
join analytics.message_archive_ids as registry on registry.event_id = coalesce(own.event_id, sent.event_id)
where (registry.payload_hash is null or registry.payload_hash = decode(sent.payload_hash, 'hex'))
  and (
      %(binding_id)s::uuid is null
      or own.event_id is not null
      or not ops.is_foreign(sent.event_id, null, %(binding_id)s, %(teams)s, %(services)s, %(users)s)
  );
