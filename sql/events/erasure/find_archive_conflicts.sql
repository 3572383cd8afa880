-- Message archives that were kept out, of events that were erased.
select event_conflict_id
from ops.event_conflicts
join erased_event on erased_event.event_id = event_conflicts.event_id
where event_conflicts.kind = 'archives'
order by event_conflict_id;
