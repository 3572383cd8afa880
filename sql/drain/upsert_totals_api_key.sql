-- Adds the staged batch to the running totals, in key order so that two drainers cannot deadlock.
insert into usage.api_keys as t (
    api_key_id, total_requests, successful_requests, failed_requests, total_file_size, total_files_uploaded,
    last_used_at
)
select
    api_key_id,
    total_requests,
    successful_requests,
    failed_requests,
    total_file_size,
    total_files_uploaded,
    last_used_at
from staged_api_key
order by api_key_id
on conflict (api_key_id) do update
set total_requests = t.total_requests + excluded.total_requests,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    total_file_size = t.total_file_size + excluded.total_file_size,
    total_files_uploaded = t.total_files_uploaded + excluded.total_files_uploaded,
    last_used_at = greatest(t.last_used_at, excluded.last_used_at),
    updated_at = now();
