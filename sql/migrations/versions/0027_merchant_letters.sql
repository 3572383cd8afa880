-- Aggregations find and change the dead letters of merchants' counters by their raw bytes. The role of drains may read these, and
-- not those of landed events and archives: a view, since a grant knows no rows.
create view ops.merchant_letters with (security_barrier) as
select
    dead_letter_id,
    family,
    batch_id,
    source_key,
    position,
    reason,
    raw,
    raw_format,
    claimed_at,
    replayed_at,
    discarded_at,
    discarded_by,
    discard_reason
from ops.dead_letters
where family = 'merchant'
with check option;
comment on view ops.merchant_letters is 'Dead letters of merchants'' counters, for aggregations: they may read no other raw bytes';
comment on column ops.merchant_letters.dead_letter_id is 'Number of the dead letter';
comment on column ops.merchant_letters.family is 'merchant';
comment on column ops.merchant_letters.batch_id is 'Null: these counters are read and not claimed';
comment on column ops.merchant_letters.source_key is 'Redis key that it came from, as raw bytes';
comment on column ops.merchant_letters.position is 'Null: such a counter is a key of its own';
comment on column ops.merchant_letters.reason is 'What was expected and what came';
comment on column ops.merchant_letters.raw is 'The refused value in raw_format';
comment on column ops.merchant_letters.raw_format is 'As in ops.dead_letters';
comment on column ops.merchant_letters.claimed_at is 'When it was last read';
comment on column ops.merchant_letters.replayed_at is 'When an aggregation read its key as a counter; null: it does not count yet';
comment on column ops.merchant_letters.discarded_at is 'When somebody decided that it does not count; null: nobody did';
comment on column ops.merchant_letters.discarded_by is 'Who decided it: the user and host of the command';
comment on column ops.merchant_letters.discard_reason is 'Why, in the words of whoever decided it';
