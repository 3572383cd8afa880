-- Dead letters of counters that are read and not claimed: one that is known already is not added again, only reopened when
-- it had been cleared (a decision of before that is overtaken). One that is discarded stays so. Not added either: one whose key
-- and reason have an open dead letter, which was refreshed just before.
insert into ops.merchant_letters as d (family, source_key, reason, raw, raw_format, claimed_at)
select 'merchant', source_key, reason, raw, raw_format, %(claimed_at)s
from staged_merchant_dead_letter
order by source_key
on conflict (md5(source_key), md5(raw), coalesce(position, -1)) where batch_id is null do update
set reason = excluded.reason,
    raw_format = excluded.raw_format,
    claimed_at = excluded.claimed_at,
    replayed_at = null,
    discarded_at = null,
    discarded_by = null,
    discard_reason = null
where d.replayed_at is not null;
