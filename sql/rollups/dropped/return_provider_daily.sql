-- Puts the sums of a day back into raw.provider_deltas, from which its rows were dropped, before late ones are added to them.
insert into raw.provider_deltas (usage_date, batch_id, source_key, api_key_id, provider, upload_count, total_file_size, last_used_at)
select
    usage_date,
    'dropped',
    '',
    api_key_id,
    provider,
    upload_count,
    total_file_size,
    last_used_at
from usage.provider_daily
where usage_date = %(usage_date)s;
