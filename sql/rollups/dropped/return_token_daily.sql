-- Puts the sums of a day back into raw.token_deltas, from which its rows were dropped, before late ones are added to them.
-- Which instances counted them is not known any more.
insert into raw.token_deltas (usage_date, batch_id, source_key, token_id, instance_id, usage_count, last_used_at)
select
    usage_date,
    'dropped',
    '',
    token_id,
    '',
    usage_count,
    last_used_at
from usage.token_daily
where usage_date = %(usage_date)s;
