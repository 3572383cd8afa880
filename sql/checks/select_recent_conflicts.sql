-- Event ids that came with another payload than the stored one since then, and nobody decided about it, latest first.
select event_id, kind, times, last_seen_at
from ops.event_conflicts
where last_seen_at >= %(since)s
  and decided_at is null
order by last_seen_at desc, event_conflict_id;
