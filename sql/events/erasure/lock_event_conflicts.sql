-- Conflicting input, held until the transaction ends.
select other_payload, 'string', ''
from ops.event_conflicts
where event_conflict_id = %(number)s
for update;
