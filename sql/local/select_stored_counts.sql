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
group by api_key_id
union all
select 'usage_event', concat_ws('/', team, service, provider, model), counts.field, counts.value
from (
    select
        team,
        service,
        provider,
        model,
        count(*) as requests,
        count(*) filter (where analytics.is_error(status_code, error_type)) as errors,
        sum(input_tokens)::bigint as input_tokens,
        sum(output_tokens)::bigint as output_tokens
    from analytics.usage_events
    group by team, service, provider, model
) as stored
cross join lateral (
    values
        ('requests', requests),
        ('errors', errors),
        ('input_tokens', input_tokens),
        ('output_tokens', output_tokens)
) as counts (field, value)
union all
select 'issue', 'all', counts.field, counts.value
from (
    select
        coalesce(sum(created_count), 0)::bigint as created_count,
        coalesce(sum(resolved_count), 0)::bigint as resolved_count,
        coalesce(sum(comment_count), 0)::bigint as comment_count
    from stats.daily_issue_stats
) as stored
cross join lateral (
    values
        ('created_count', created_count),
        ('resolved_count', resolved_count),
        ('comment_count', comment_count)
) as counts (field, value)
union all
select 'usage_daily', concat_ws('/', team, service, provider, model), counts.field, sum(counts.value)::bigint
from analytics.usage_daily
cross join lateral (
    values
        ('requests', requests),
        ('errors', errors),
        ('input_tokens', input_tokens),
        ('output_tokens', output_tokens)
) as counts (field, value)
group by 2, 3;
