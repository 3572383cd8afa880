-- Positions of the staged events that this page stored; the others were stored before.
select staged.position
from staged_event as staged
join raw.request_events as stored on stored.event_id = staged.event_id
where stored.usage_date = any(%(usage_dates)s)
  and stored.batch_id = %(batch_id)s;
