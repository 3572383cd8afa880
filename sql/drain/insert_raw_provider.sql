-- The staged batch into raw, each row on its day.
insert into raw.provider_deltas (
    usage_date, batch_id, source_key, api_key_id, provider, user_id, upload_count, total_file_size, last_used_at, extra
)
select
    usage.day_of(last_used_at, %(claimed_at)s, %(timezone)s),
    %(batch_id)s,
    'provider:' || api_key_id || ':' || provider || ':metrics',
    api_key_id,
    provider,
    user_id,
    upload_count,
    total_file_size,
    last_used_at,
    extra
from staged_provider;
