-- Dead letters of counters that do not count and may hold what our recorder wrote: open ones, and those that somebody discarded.
-- Those that are too large to be its own are left out.
select family, source_key, raw, raw_format, claimed_at, discarded_at is not null as is_discarded
from ops.dead_letters as letter
where replayed_at is null
  -- The event of such a member is stored, and counted there.
  and (family <> 'event' or member is null)
  and family = any(%(families)s)
  and created_at >= %(since)s
  and octet_length(raw) <= %(most_bytes)s
  -- A merchant's counter is absolute: of the letters of a key, the newest has all of it.
  and not (
    family = 'merchant'
    and exists (
        select
        from ops.dead_letters as newer
        where newer.batch_id is null
          and md5(newer.source_key) = md5(letter.source_key)
          and (newer.claimed_at, newer.dead_letter_id) > (letter.claimed_at, letter.dead_letter_id)
    )
  )
order by dead_letter_id;
