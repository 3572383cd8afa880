-- The same for a sender who is bound.
copy analytics.usage_event_ids (event_id, event_time, payload_hash, binding_id) from stdin;
