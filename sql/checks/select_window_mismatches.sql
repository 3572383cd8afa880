-- Groups of one window of {table} whose sums are not those of its days. None while a day changed that is not merged yet.
-- Written apart from rollups/replace_merged_windows.sql, whose sums it checks: a fault in a shared part would not be found.
with merged as (
    select
        team,
        service,
        provider,
        model,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cache_read_tokens,
        cache_write_tokens,
        output_reasoning_tokens,
        input_audio_tokens,
        output_audio_tokens,
        input_image_tokens,
        output_image_tokens,
        unattributed_tokens,
        other_units,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        reported_requests,
        unpriced_requests,
        unlisted_requests
    from {table}
    where {window} = %(window)s
),
daily as (
    select
        team,
        service,
        provider,
        model,
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        analytics.capped(sum(input_tokens)) as input_tokens,
        analytics.capped(sum(output_tokens)) as output_tokens,
        analytics.capped(sum(total_tokens)) as total_tokens,
        analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
        analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
        analytics.capped(sum(output_reasoning_tokens)) as output_reasoning_tokens,
        analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
        analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
        analytics.capped(sum(input_image_tokens)) as input_image_tokens,
        analytics.capped(sum(output_image_tokens)) as output_image_tokens,
        analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
        analytics.sum_units(other_units) as other_units,
        sum(cost_usd) as cost_usd,
        sum(list_cost_usd) as list_cost_usd,
        sum(reported_cost_usd) as reported_cost_usd,
        sum(reported_requests)::bigint as reported_requests,
        sum(unpriced_requests)::bigint as unpriced_requests,
        sum(unlisted_requests)::bigint as unlisted_requests
    from analytics.usage_daily
    where usage_date >= %(first_day)s
      and usage_date < %(next_day)s
    group by team, service, provider, model
)
select team, service, provider, model, merged.requests, daily.requests
from merged
full join daily using (team, service, provider, model)
where (
    merged.requests,
    merged.errors,
    merged.input_tokens,
    merged.output_tokens,
    merged.total_tokens,
    merged.cache_read_tokens,
    merged.cache_write_tokens,
    merged.output_reasoning_tokens,
    merged.input_audio_tokens,
    merged.output_audio_tokens,
    merged.input_image_tokens,
    merged.output_image_tokens,
    merged.unattributed_tokens,
    merged.other_units,
    merged.cost_usd,
    merged.list_cost_usd,
    merged.reported_cost_usd,
    merged.reported_requests,
    merged.unpriced_requests,
    merged.unlisted_requests
) is distinct from (
    daily.requests,
    daily.errors,
    daily.input_tokens,
    daily.output_tokens,
    daily.total_tokens,
    daily.cache_read_tokens,
    daily.cache_write_tokens,
    daily.output_reasoning_tokens,
    daily.input_audio_tokens,
    daily.output_audio_tokens,
    daily.input_image_tokens,
    daily.output_image_tokens,
    daily.unattributed_tokens,
    daily.other_units,
    daily.cost_usd,
    daily.list_cost_usd,
    daily.reported_cost_usd,
    daily.reported_requests,
    daily.unpriced_requests,
    daily.unlisted_requests
)
  and not exists (
    select 1
    from ops.touched_windows
    where grain = %(grain)s
      and window_start = %(window_start)s
  )
order by team, service, provider, model;
