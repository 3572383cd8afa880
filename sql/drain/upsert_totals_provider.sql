-- Adds the staged batch to the running totals, in key order so that two drainers cannot deadlock.
insert into usage.provider_usage as t (api_key_id, provider, user_id, upload_count, total_file_size, last_used_at)
select
    api_key_id,
    provider,
    user_id,
    upload_count,
    total_file_size,
    last_used_at
from staged_provider
order by api_key_id, provider
on conflict (api_key_id, provider) do update
set user_id = coalesce(excluded.user_id, t.user_id),
    upload_count = t.upload_count + excluded.upload_count,
    total_file_size = t.total_file_size + excluded.total_file_size,
    last_used_at = greatest(t.last_used_at, excluded.last_used_at),
    updated_at = now();
