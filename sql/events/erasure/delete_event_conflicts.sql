-- Conflicting input whose erased twin is there already.
delete from ops.event_conflicts
where event_conflict_id = %(number)s;
