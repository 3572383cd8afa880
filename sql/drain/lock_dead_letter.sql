-- What became of a dead letter, which is locked: of two replays only one counts it, and none counts what was just discarded.
select
    replayed_at is not null as is_counted,
    discarded_at is not null as is_discarded
from ops.dead_letters
where dead_letter_id = %s
for update;
