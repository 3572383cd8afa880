-- Items that were kept out under the id of another, oldest first: open ones, or all, or those of some numbers.
select event_conflict_id, kind, event_id, other_payload, times, detected_at, last_seen_at, decided_at, outcome
from ops.event_conflicts
where case
        when %(ids)s::bigint[] = '{}' then %(with_decided)s or decided_at is null
        else event_conflict_id = any(%(ids)s)
    end
order by event_conflict_id
limit %(limit)s;
