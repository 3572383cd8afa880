-- Events of that time in the table.
select count(*)
from analytics.usage_events
where event_time >= %(first)s
  and event_time < %(until)s;
