-- Dead letters in the order of their numbers, within ranges of numbers that do not overlap. Without families or a source: all of
-- them. Those that are named one by one come whatever became of them. Each range reads no more rows than it gives.
select letter.*
from unnest(%(firsts)s::bigint[], %(lasts)s::bigint[]) as asked (first, last)
cross join lateral (
    select
        dead_letter_id,
        family,
        batch_id,
        source_key,
        position,
        reason,
        case when %(with_raw)s then raw else ''::bytea end as raw,
        octet_length(raw) as raw_bytes,
        raw_format,
        claimed_at,
        created_at,
        replayed_at,
        member,
        attempts,
        tried_at,
        discarded_at,
        discarded_by,
        discard_reason
    from ops.dead_letters
    where dead_letter_id between greatest(asked.first, %(after)s + 1) and asked.last
      and (cardinality(%(families)s::text[]) = 0 or family = any(%(families)s))
      and (%(source)s::bytea is null or source_key = %(source)s)
      and (
        dead_letter_id = any(%(ids)s::bigint[])
        or (replayed_at is null and discarded_at is null)
        or (%(with_replayed)s and replayed_at is not null)
        or (%(with_discarded)s and replayed_at is null and discarded_at is not null)
      )
    order by dead_letter_id
    limit %(limit)s
) as letter
order by letter.dead_letter_id
limit %(limit)s;
