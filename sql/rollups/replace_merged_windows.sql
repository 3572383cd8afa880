-- Replaces one day, week or month of {table} from the daily tables of users and latencies; rows that are right stay untouched.
-- What few rows have is summed up by a filter: a sum that never begins takes no memory, and there is one for each user and model.
-- Percentiles are those of percentile_cont over all requests: the place in the sorted latencies, between two of them in proportion.
with per_user as (
    select
        team,
        service,
        provider,
        model,
        user_id,
        sum(requests) as requests,
        sum(errors) as errors,
        sum(input_tokens) as input_tokens,
        sum(output_tokens) as output_tokens,
        sum(total_tokens) as total_tokens,
        sum(cache_read_tokens) filter (where cache_read_tokens <> 0) as cache_read_tokens,
        sum(cache_write_tokens) filter (where cache_write_tokens <> 0) as cache_write_tokens,
        sum(output_reasoning_tokens) filter (where output_reasoning_tokens <> 0) as output_reasoning_tokens,
        sum(input_audio_tokens) filter (where input_audio_tokens <> 0) as input_audio_tokens,
        sum(output_audio_tokens) filter (where output_audio_tokens <> 0) as output_audio_tokens,
        sum(input_image_tokens) filter (where input_image_tokens <> 0) as input_image_tokens,
        sum(output_image_tokens) filter (where output_image_tokens <> 0) as output_image_tokens,
        sum(unattributed_tokens) filter (where unattributed_tokens <> 0) as unattributed_tokens,
        sum(cost_usd) as cost_usd,
        sum(list_cost_usd) as list_cost_usd,
        sum(reported_cost_usd) filter (where reported_cost_usd is not null) as reported_cost_usd,
        sum(reported_requests) filter (where reported_requests <> 0) as reported_requests,
        sum(unpriced_requests) as unpriced_requests,
        sum(unlisted_requests) as unlisted_requests
    from analytics.usage_user_daily
    where usage_date >= %(first_day)s
      and usage_date < %(next_day)s
    group by team, service, provider, model, user_id
),
summed as (
    select
        row_number() over () as number,
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
        count(*) as distinct_users,
        trim_scale(sum(cost_usd)) as cost_usd,
        trim_scale(sum(list_cost_usd)) as list_cost_usd,
        trim_scale(sum(reported_cost_usd)) as reported_cost_usd,
        coalesce(sum(reported_requests), 0)::bigint as reported_requests,
        sum(unpriced_requests)::bigint as unpriced_requests,
        sum(unlisted_requests)::bigint as unlisted_requests
    from per_user
    group by team, service, provider, model
),
units as (
    select
        team,
        service,
        provider,
        model,
        analytics.sum_units(other_units) as other_units
    from analytics.usage_user_daily
    where usage_date >= %(first_day)s
      and usage_date < %(next_day)s
      and other_units is not null
    group by team, service, provider, model
),
-- Joined once for all groups. A look-up for each group reads the whole window for it, where the server cannot skip dates.
counted as (
    select
        summed.number,
        counts.latency_ms,
        sum(counts.requests)::float8 as requests
    from summed
    join analytics.usage_latency_daily as daily
        on daily.team = summed.team
        and daily.service = summed.service
        and daily.provider = summed.provider
        and daily.model = summed.model
    cross join unnest(daily.latencies_ms, daily.requests) as counts (latency_ms, requests)
    where daily.usage_date >= %(first_day)s
      and daily.usage_date < %(next_day)s
    group by summed.number, counts.latency_ms
),
ranked as (
    select
        number,
        latency_ms,
        sum(requests) over (partition by number order by latency_ms) as requests_so_far,
        sum(requests) over (partition by number) - 1 as last_rank
    from counted
),
places as (
    select
        number,
        share * last_rank as place,
        min(latency_ms) filter (where requests_so_far > floor(share * last_rank)) as lower_ms,
        min(latency_ms) filter (where requests_so_far > ceil(share * last_rank)) as upper_ms
    from ranked
    cross join unnest(array[0.5, 0.95, 0.99]::float8[]) as shares (share)
    group by number, share, last_rank
),
percentiles as (
    select
        number,
        array_agg(lower_ms + (upper_ms - lower_ms) * (place - floor(place)) order by place) as ms
    from places
    group by number
),
source as (
    select
        summed.team,
        summed.service,
        summed.provider,
        summed.model,
        summed.requests,
        summed.errors,
        summed.input_tokens,
        summed.output_tokens,
        summed.total_tokens,
        summed.cache_read_tokens,
        summed.cache_write_tokens,
        summed.output_reasoning_tokens,
        summed.input_audio_tokens,
        summed.output_audio_tokens,
        summed.input_image_tokens,
        summed.output_image_tokens,
        summed.unattributed_tokens,
        units.other_units,
        percentiles.ms[1] as latency_p50_ms,
        percentiles.ms[2] as latency_p95_ms,
        percentiles.ms[3] as latency_p99_ms,
        summed.distinct_users,
        summed.cost_usd,
        summed.list_cost_usd,
        summed.reported_cost_usd,
        summed.reported_requests,
        summed.unpriced_requests,
        summed.unlisted_requests
    from summed
    left join percentiles
        on percentiles.number = summed.number
    left join units
        on units.team = summed.team
        and units.service = summed.service
        and units.provider = summed.provider
        and units.model = summed.model
),
{store_source}
