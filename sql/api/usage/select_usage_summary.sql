-- Each day of a range with the sums over all API keys, tokens and models; days without any are zeros.
-- Of models, within what a bound token may see; from the usage of users where it is bound to some.
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
        analytics.capped(sum(input_tokens)) as input_tokens,
        analytics.capped(sum(output_tokens)) as output_tokens,
        analytics.capped(sum(total_tokens)) as total_tokens,
        analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
        analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
        analytics.capped(sum(output_reasoning_tokens)) as reasoning_tokens,
        analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
        analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
        analytics.capped(sum(input_image_tokens)) as input_image_tokens,
        analytics.capped(sum(output_image_tokens)) as output_image_tokens,
        analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
        analytics.sum_units(other_units) filter (where other_units is not null) as other_units,
        sum(cost_usd) as cost_usd,
        sum(list_cost_usd) as list_cost_usd,
        sum(reported_cost_usd) as reported_cost_usd,
        analytics.capped(sum(reported_requests)) as reported_requests,
        analytics.capped(sum(unpriced_requests)) as unpriced_requests,
        analytics.capped(sum(unlisted_requests)) as unlisted_requests
    from {usage}
    where usage_date >= %(first)s
    and usage_date < %(until)s{within}
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
    coalesce(models.input_tokens, 0) as input_tokens,
    coalesce(models.output_tokens, 0) as output_tokens,
    coalesce(models.total_tokens, 0) as total_tokens,
    coalesce(models.cache_read_tokens, 0) as cache_read_tokens,
    coalesce(models.cache_write_tokens, 0) as cache_write_tokens,
    coalesce(models.reasoning_tokens, 0) as reasoning_tokens,
    coalesce(models.input_audio_tokens, 0) as input_audio_tokens,
    coalesce(models.output_audio_tokens, 0) as output_audio_tokens,
    coalesce(models.input_image_tokens, 0) as input_image_tokens,
    coalesce(models.output_image_tokens, 0) as output_image_tokens,
    coalesce(models.unattributed_tokens, 0) as unattributed_tokens,
    coalesce(models.other_units, '{{}}') as other_units,
    models.cost_usd,
    models.list_cost_usd,
    models.reported_cost_usd,
    coalesce(models.reported_requests, 0) as reported_requests,
    coalesce(models.unpriced_requests, 0) as unpriced_requests,
    coalesce(models.unlisted_requests, 0) as unlisted_requests
from days
left join api_keys using (usage_date)
left join tokens using (usage_date)
left join models using (usage_date)
order by usage_date
