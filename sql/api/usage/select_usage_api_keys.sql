-- API keys with their totals, from one id on; in the order of the primary key, so that a page costs its rows only.
select
    api_key_id,
    total_requests,
    successful_requests,
    failed_requests,
    total_file_size,
    total_files_uploaded,
    last_used_at
from usage.api_keys
where (%(api_key_id)s::text is null or api_key_id = %(api_key_id)s)
and (%(after_api_key_id)s::text is null or api_key_id > %(after_api_key_id)s)
order by api_key_id
limit %(most)s
