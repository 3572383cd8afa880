-- Dead letters of counters that are read and not claimed: one that is known already is not added again.
insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at)
select 'merchant', source_key, reason, raw, raw_format, %(claimed_at)s
from staged_merchant_dead_letter
order by source_key
on conflict (source_key, md5(raw)) where batch_id is null do nothing;
