-- Which ids a binding has for events of its own whose ids others had.
select event_id
from analytics.usage_event_ids
where event_id = any(%(ids)s::uuid[])
  and binding_id = %(binding_id)s;
