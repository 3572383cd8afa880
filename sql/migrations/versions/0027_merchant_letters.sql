-- Aggregations find and change the dead letters of merchants' counters by their raw bytes. The role of drains may read these, and
-- not those of landed events and archives: a view, since a grant knows no rows.
create view ops.merchant_letters with (security_barrier) as
select
    dead_letter_id,
    family,
    batch_id,
    source_key,
    reason,
    raw,
    raw_format,
    claimed_at,
    replayed_at,
    discarded_at
from ops.dead_letters
where family = 'merchant'
with check option;
comment on view ops.merchant_letters is 'Dead letters of merchants'' counters, for aggregations: they may read no other raw bytes';
