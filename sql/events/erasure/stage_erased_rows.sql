-- Notes the events in the table that were erased, now or before.
insert into erased_event (event_id, event_time)
select event_id, event_time
from analytics.usage_events
where user_id = %(pseudonym)s
on conflict do nothing;
