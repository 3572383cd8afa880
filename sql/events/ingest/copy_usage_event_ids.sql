-- The ids of events that are expected to be new.
copy analytics.usage_event_ids (event_id, event_time, payload_hash) from stdin;
