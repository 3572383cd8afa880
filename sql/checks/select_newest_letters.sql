-- The newest open dead letters of some families, of very many only so many.
select dead_letter_id, family, source_key, claimed_at, reason
from ops.dead_letters
where replayed_at is null
  and family = any(%(families)s)
order by created_at desc, dead_letter_id desc
limit %(most)s;
