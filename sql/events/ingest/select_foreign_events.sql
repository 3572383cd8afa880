-- Which staged events that were not stored have the id of an event that their sender may not see.
select position
from staged_usage_event
where position = any(%(positions)s)
  and ops.is_foreign(event_id, payload_hash, %(binding_id)s, %(teams)s, %(services)s, %(users)s);
