-- Which staged archives are for an event that their sender may not see.
select position
from staged_message_archive
where position = any(%(positions)s)
  and ops.is_foreign(event_id, null, %(binding_id)s, %(teams)s, %(services)s, %(users)s);
