-- Usage per day and API key of a range of days, from one row on, in the order of the primary key.
select
    usage_date,
    api_key_id,
    total_requests,
    successful_requests,
    failed_requests,
    total_file_size,
    total_files_uploaded,
    last_used_at
from usage.api_key_daily
where usage_date >= %(first)s
and usage_date < %(until)s
and (%(api_key_id)s::text is null or api_key_id = %(api_key_id)s)
and (
    %(after_usage_date)s::date is null
    or (usage_date, api_key_id) > (%(after_usage_date)s, %(after_api_key_id)s::text)
)
order by usage_date, api_key_id
limit %(most)s
