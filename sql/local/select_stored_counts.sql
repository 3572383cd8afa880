-- Every stored count of one writer as (family, key, field, value), to compare with what it says it wrote: the ids that it gave out
-- match a pattern that nobody else's match, and its tokens are named.
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
where api_key_id like %(ids)s
union all
select 'provider', api_key_id || ':' || provider, counts.field, counts.value
from usage.provider_usage
cross join lateral (values ('upload_count', upload_count), ('total_file_size', total_file_size)) as counts (field, value)
where api_key_id like %(ids)s
union all
select 'token', token_id, 'usage_count', usage_count
from usage.api_access_tokens
where token_id like %(ids)s
   or token_id = any(%(token_ids)s)
union all
select 'merchant', merchant_id || ':' || date || ':' || metric_type, 'metric_value', metric_value
from usage.merchant_usage
where merchant_id like %(ids)s
union all
select 'event', api_key_id, 'events', count(*)
from raw.request_events
where api_key_id like %(ids)s
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
        sum(output_tokens)::bigint as output_tokens,
        sum(cache_read_tokens)::bigint as cache_read_tokens,
        sum(cache_write_tokens)::bigint as cache_write_tokens,
        sum(output_reasoning_tokens)::bigint as output_reasoning_tokens,
        sum(input_audio_tokens)::bigint as input_audio_tokens,
        sum(output_audio_tokens)::bigint as output_audio_tokens
    from analytics.usage_events
    where user_id like %(ids)s
    group by team, service, provider, model
) as stored
cross join lateral (
    values
        ('requests', requests),
        ('errors', errors),
        ('input_tokens', input_tokens),
        ('output_tokens', output_tokens),
        ('cache_read_tokens', cache_read_tokens),
        ('cache_write_tokens', cache_write_tokens),
        ('output_reasoning_tokens', output_reasoning_tokens),
        ('input_audio_tokens', input_audio_tokens),
        ('output_audio_tokens', output_audio_tokens)
) as counts (field, value)
union all
-- A row of usage_daily sums up all users of its team, service and model, so the writer's part is read from the table by user that
-- is made with it.
select 'usage_daily', concat_ws('/', team, service, provider, model), counts.field, sum(counts.value)::bigint
from analytics.usage_user_daily
cross join lateral (
    values
        ('requests', requests),
        ('errors', errors),
        ('input_tokens', input_tokens),
        ('output_tokens', output_tokens),
        ('cache_read_tokens', cache_read_tokens),
        ('cache_write_tokens', cache_write_tokens),
        ('output_reasoning_tokens', output_reasoning_tokens),
        ('input_audio_tokens', input_audio_tokens),
        ('output_audio_tokens', output_audio_tokens)
) as counts (field, value)
where user_id like %(ids)s
group by 2, 3
union all
-- And what a row of usage_daily has more or less than its users on the days of the writer: nothing.
select
    'usage_daily',
    concat_ws('/', usage_date, team, service, provider, model),
    counts.field,
    counts.value
from (
    select
        usage_date,
        team,
        service,
        provider,
        model,
        coalesce(daily.requests, 0) - coalesce(users.requests, 0) as requests,
        coalesce(daily.errors, 0) - coalesce(users.errors, 0) as errors,
        coalesce(daily.input_tokens, 0) - coalesce(users.input_tokens, 0) as input_tokens,
        coalesce(daily.output_tokens, 0) - coalesce(users.output_tokens, 0) as output_tokens,
        coalesce(daily.cache_read_tokens, 0) - coalesce(users.cache_read_tokens, 0) as cache_read_tokens,
        coalesce(daily.cache_write_tokens, 0) - coalesce(users.cache_write_tokens, 0) as cache_write_tokens,
        coalesce(daily.output_reasoning_tokens, 0) - coalesce(users.output_reasoning_tokens, 0) as output_reasoning_tokens,
        coalesce(daily.input_audio_tokens, 0) - coalesce(users.input_audio_tokens, 0) as input_audio_tokens,
        coalesce(daily.output_audio_tokens, 0) - coalesce(users.output_audio_tokens, 0) as output_audio_tokens
    from (
        select
            usage_date,
            team,
            service,
            provider,
            model,
            sum(requests)::bigint as requests,
            sum(errors)::bigint as errors,
            analytics.capped(sum(input_tokens)) as input_tokens,
            analytics.capped(sum(output_tokens)) as output_tokens,
            analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
            analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
            analytics.capped(sum(output_reasoning_tokens)) as output_reasoning_tokens,
            analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
            analytics.capped(sum(output_audio_tokens)) as output_audio_tokens
        from analytics.usage_user_daily
        group by usage_date, team, service, provider, model
    ) as users
    full join analytics.usage_daily as daily using (usage_date, team, service, provider, model)
    where usage_date in (select ours.usage_date from analytics.usage_user_daily as ours where ours.user_id like %(ids)s)
) as apart
cross join lateral (
    values
        ('requests', requests),
        ('errors', errors),
        ('input_tokens', input_tokens),
        ('output_tokens', output_tokens),
        ('cache_read_tokens', cache_read_tokens),
        ('cache_write_tokens', cache_write_tokens),
        ('output_reasoning_tokens', output_reasoning_tokens),
        ('input_audio_tokens', input_audio_tokens),
        ('output_audio_tokens', output_audio_tokens)
) as counts (field, value)
where counts.value <> 0;
