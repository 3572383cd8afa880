-- Decides about an open conflict, once.
update ops.event_conflicts
set decided_at = clock_timestamp(),
    outcome = %(outcome)s,
    decided_by = %(corrected_by)s,
    decision_reason = %(reason)s
where event_conflict_id = %(event_conflict_id)s
  and decided_at is null;
