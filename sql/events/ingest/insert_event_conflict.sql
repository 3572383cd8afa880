-- Keeps an item that came under the id of another; the same one again only counts. Its bytes go as they are: as text they would
-- be twice as many.
insert into ops.event_conflicts as t (kind, event_id, stored_hash, other_hash, other_payload, batch_id)
values (%(kind)s, %(event_id)s, %(stored_hash)s, %(other_hash)s, %(other_payload)b, %(batch_id)s)
on conflict (kind, event_id, other_hash) do update
set times = t.times + 1,
    last_seen_at = clock_timestamp();
