-- The staged batch into raw, each row on its day.
insert into raw.api_key_deltas (
    usage_date, batch_id, source_key, api_key_id, total_requests, successful_requests, failed_requests,
    total_file_size, total_files_uploaded, last_used_at, extra
)
select
    usage.day_of(last_used_at, %(claimed_at)s, %(timezone)s),
    %(batch_id)s,
    'apikey:' || api_key_id || ':metrics',
    api_key_id,
    total_requests,
    successful_requests,
    failed_requests,
    total_file_size,
    total_files_uploaded,
    last_used_at,
    extra
from staged_api_key;
