-- Every stored count as (family, key, field, value), to compare with what a writer says it wrote.
select 'api_key', api_key_id, counts.field, counts.value
from usage.api_keys
cross join lateral (
    values
        ('total_requests', total_requests),
        ('successful_requests', successful_requests),
        ('failed_requests', failed_requests),
        ('total_file_size', total_file_size),
        ('total_files_uploaded', total_files_uploaded)
) as counts (field, value)
union all
select 'provider', api_key_id || ':' || provider, counts.field, counts.value
from usage.provider_usage
cross join lateral (values ('upload_count', upload_count), ('total_file_size', total_file_size)) as counts (field, value)
union all
select 'token', token_id, 'usage_count', usage_count
from usage.api_access_tokens
union all
select 'merchant', merchant_id || ':' || date || ':' || metric_type, 'metric_value', metric_value
from usage.merchant_usage
union all
select 'event', api_key_id, 'events', count(*)
from raw.request_events
group by api_key_id;
