-- API keys and the storage providers that they uploaded to, with their totals, from one pair on.
select api_key_id, provider, user_id, upload_count, total_file_size, last_used_at
from usage.provider_usage
where (%(api_key_id)s::text is null or api_key_id = %(api_key_id)s)
and (%(provider)s::text is null or provider = %(provider)s)
and (%(user_id)s::text is null or user_id = %(user_id)s)
and (
    %(after_api_key_id)s::text is null
    or (api_key_id, provider) > (%(after_api_key_id)s, %(after_provider)s::text)
)
order by api_key_id, provider
limit %(most)s
