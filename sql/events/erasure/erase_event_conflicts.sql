-- Conflicting input without the user; its hash stays, so that the same one again only counts.
update ops.event_conflicts
set other_payload = %(raw)s
where event_conflict_id = %(number)s;
