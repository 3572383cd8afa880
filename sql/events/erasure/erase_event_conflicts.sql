-- Conflicting input without the user. Its hash is forgotten, too.
update ops.event_conflicts
set other_payload = %(raw)s,
    other_hash = null
where event_conflict_id = %(number)s;
