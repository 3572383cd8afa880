-- Rows and sums of one day of usage.api_key_daily, to tell by how much a replacement changed it.
select jsonb_build_object(
    'rows', count(*),
    'total_requests', coalesce(sum(total_requests), 0),
    'successful_requests', coalesce(sum(successful_requests), 0),
    'failed_requests', coalesce(sum(failed_requests), 0),
    'total_file_size', coalesce(sum(total_file_size), 0),
    'total_files_uploaded', coalesce(sum(total_files_uploaded), 0)
)
from usage.api_key_daily
where usage_date = %(usage_date)s;
