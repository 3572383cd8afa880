-- How many of these events are stored as they are sent: of each, what is stored under its id has its hash, or was erased.
-- An event of a binding that was kept apart before has an id of its own.
select count(*)
from unnest(%(ids)s::uuid[], %(own_ids)s::uuid[], %(hashes)s::text[]) as sent (event_id, own_id, payload_hash)
left join analytics.usage_event_ids as own
    on own.event_id = sent.own_id
    and own.binding_id = %(binding_id)s::uuid
left join analytics.usage_event_ids as registry on registry.event_id = sent.event_id
where case
    when own.event_id is not null then own.payload_hash is null or own.payload_hash = decode(sent.payload_hash, 'hex')
    -- Whoever is bound may not know what others had erased.
    when registry.payload_hash is null and registry.event_id is not null
        then %(binding_id)s::uuid is null or registry.binding_id = %(binding_id)s::uuid
    else registry.payload_hash = decode(sent.payload_hash, 'hex')
end;
