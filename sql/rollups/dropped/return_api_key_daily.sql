-- Puts the sums of a day back into raw.api_key_deltas, from which its rows were dropped, before late ones are added to them.
insert into raw.api_key_deltas (
    usage_date, batch_id, source_key, api_key_id, total_requests, successful_requests, failed_requests, total_file_size,
    total_files_uploaded, last_used_at
)
select
    usage_date,
    'dropped',
    '',
    api_key_id,
    total_requests,
    successful_requests,
    failed_requests,
    total_file_size,
    total_files_uploaded,
    last_used_at
from usage.api_key_daily
where usage_date = %(usage_date)s;
