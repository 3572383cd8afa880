-- The registry of request events follows rows that moved to another day.
update raw.request_event_ids as known
set usage_date = event.usage_date
from raw.request_events as event
where event.event_id = known.event_id
  and event.usage_date = any(%(days)s::date[])
  and known.usage_date <> event.usage_date;
