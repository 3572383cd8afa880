-- Replaces an event by the staged one of that position, and keeps why. Columns go by their names, which are those of the table.
select outcome, refusal
from staged_usage_event as staged
cross join lateral {correct}(
    %(event_id)s,
    jsonb_populate_record(null::analytics.usage_events, to_jsonb(staged) - 'position' - 'payload_hash'),
    staged.payload_hash,
    %(corrected_by)s,
    %(reason)s,
    %(oldest)s,
    %(oldest_by)s{binding}
)
where staged.position = %(position)s;
