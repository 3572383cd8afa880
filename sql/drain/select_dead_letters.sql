-- Dead letters, oldest first; an empty list of ids or families means all of them.
select
    dead_letter_id,
    family,
    batch_id,
    source_key,
    position,
    reason,
    case when %(with_raw)s then raw else ''::bytea end as raw,
    raw_format,
    claimed_at,
    created_at,
    replayed_at,
    member
from ops.dead_letters
where (cardinality(%(ids)s::bigint[]) = 0 or dead_letter_id = any(%(ids)s))
  and (cardinality(%(families)s::text[]) = 0 or family = any(%(families)s))
  and (%(with_replayed)s or replayed_at is null)
  and dead_letter_id > %(after)s
order by dead_letter_id
limit %(limit)s;
