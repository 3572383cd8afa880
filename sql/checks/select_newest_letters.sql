-- The newest open dead letters of some families, of very many only so many.
-- The reason of a request event begins with the item itself: its user may be erased, and Dagster's history keeps copies.
select
    dead_letter_id,
    family,
    source_key,
    claimed_at,
    regexp_replace(reason, '(item: expected a request event as JSON, came ).*', '\1one with a fault')
from ops.dead_letters
where replayed_at is null
  and discarded_at is null
  and family = any(%(families)s)
order by created_at desc, dead_letter_id desc
limit %(most)s;
