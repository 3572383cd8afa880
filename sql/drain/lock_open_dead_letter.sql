-- The dead letter, if it does not count yet: locked, so that of two replays only one counts it.
select dead_letter_id
from ops.dead_letters
where dead_letter_id = %s
  and replayed_at is null
for update;
