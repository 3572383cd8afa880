-- Each day of a range with the sums over all API keys, tokens and models; days without any are zeros.
with days as (
    select generate_series(%(first)s::timestamp, %(until)s::timestamp - interval '1 day', '1 day')::date as usage_date
),

api_keys as (
    select
        usage_date,
        analytics.capped(sum(total_requests)) as requests,
        analytics.capped(sum(failed_requests)) as failed,
        analytics.capped(sum(total_files_uploaded)) as files
    from usage.api_key_daily
    where usage_date >= %(first)s
    and usage_date < %(until)s
    group by usage_date
),

tokens as (
    select usage_date, analytics.capped(sum(usage_count)) as uses
    from usage.token_daily
    where usage_date >= %(first)s
    and usage_date < %(until)s
    group by usage_date
),

models as (
    select
        usage_date,
        analytics.capped(sum(requests)) as requests,
        analytics.capped(sum(errors)) as errors,
        analytics.capped(sum(total_tokens)) as total_tokens,
        sum(cost_usd) as cost_usd
    from analytics.usage_daily
    where usage_date >= %(first)s
    and usage_date < %(until)s
    group by usage_date
)

select
    usage_date,
    coalesce(api_keys.requests, 0) as api_key_requests,
    coalesce(api_keys.failed, 0) as failed_api_key_requests,
    coalesce(api_keys.files, 0) as files_uploaded,
    coalesce(tokens.uses, 0) as token_requests,
    coalesce(models.requests, 0) as model_requests,
    coalesce(models.errors, 0) as model_errors,
    coalesce(models.total_tokens, 0) as total_tokens,
    models.cost_usd
from days
left join api_keys using (usage_date)
left join tokens using (usage_date)
left join models using (usage_date)
order by usage_date
