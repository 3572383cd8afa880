-- Open dead letters of counters that may hold what our recorder wrote; those that are too large to be its own are left out.
select family, source_key, raw, raw_format, claimed_at
from ops.dead_letters
where replayed_at is null
  -- The event of such a member is stored, and counted there.
  and (family <> 'event' or member is null)
  and family = any(%(families)s)
  and created_at >= %(since)s
  and octet_length(raw) <= %(most_bytes)s
order by dead_letter_id;
