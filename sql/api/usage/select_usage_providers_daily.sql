-- Uploads per day, API key and storage provider of a range of days, from one row on. The user is the one of the totals.
select d.usage_date, d.api_key_id, d.provider, u.user_id, d.upload_count, d.total_file_size, d.last_used_at
from usage.provider_daily as d
left join usage.provider_usage as u on u.api_key_id = d.api_key_id and u.provider = d.provider
where d.usage_date >= %(first)s
and d.usage_date < %(until)s
and (%(api_key_id)s::text is null or d.api_key_id = %(api_key_id)s)
and (%(provider)s::text is null or d.provider = %(provider)s)
and (%(user_id)s::text is null or u.user_id = %(user_id)s)
and (
    %(after_usage_date)s::date is null
    or (d.usage_date, d.api_key_id, d.provider)
    > (%(after_usage_date)s, %(after_api_key_id)s::text, %(after_provider)s::text)
)
order by d.usage_date, d.api_key_id, d.provider
limit %(most)s
