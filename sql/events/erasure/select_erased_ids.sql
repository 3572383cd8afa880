-- The erased events of a span of time.
select event_id::text
from erased_event
where event_time >= %(first)s
  and event_time < %(until)s;
