-- Makes one hour of analytics.usage_hourly from its events and what is kept of dropped ones; rows that are right already stay untouched.
-- Percentiles and distinct users of dropped events cannot be merged with those of others: they stay as they are stored.
with live as (
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
        latency_p50_ms,
        latency_p95_ms,
        latency_p99_ms,
        distinct_users,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        reported_requests,
        unpriced_requests,
        unlisted_requests
    from analytics.roll_up_events(%(first)s, %(until)s, %(price_version)s)
),
kept as (
    select *
    from analytics.usage_hourly_kept
    where hour_start = %(window)s
),
rolled as (
    select *
    from analytics.usage_hourly
    where hour_start = %(window)s
),
source as (
    select
        team,
        service,
        provider,
        model,
        coalesce(live.requests, 0) + coalesce(kept.requests, 0) as requests,
        coalesce(live.errors, 0) + coalesce(kept.errors, 0) as errors,
        analytics.capped(coalesce(live.input_tokens, 0)::numeric + coalesce(kept.input_tokens, 0)) as input_tokens,
        analytics.capped(coalesce(live.output_tokens, 0)::numeric + coalesce(kept.output_tokens, 0)) as output_tokens,
        analytics.capped(coalesce(live.total_tokens, 0)::numeric + coalesce(kept.total_tokens, 0)) as total_tokens,
        analytics.capped(coalesce(live.cache_read_tokens, 0)::numeric + coalesce(kept.cache_read_tokens, 0)) as cache_read_tokens,
        analytics.capped(coalesce(live.cache_write_tokens, 0)::numeric + coalesce(kept.cache_write_tokens, 0)) as cache_write_tokens,
        analytics.capped(coalesce(live.output_reasoning_tokens, 0)::numeric + coalesce(kept.output_reasoning_tokens, 0)) as output_reasoning_tokens,
        analytics.capped(coalesce(live.input_audio_tokens, 0)::numeric + coalesce(kept.input_audio_tokens, 0)) as input_audio_tokens,
        analytics.capped(coalesce(live.output_audio_tokens, 0)::numeric + coalesce(kept.output_audio_tokens, 0)) as output_audio_tokens,
        analytics.capped(coalesce(live.input_image_tokens, 0)::numeric + coalesce(kept.input_image_tokens, 0)) as input_image_tokens,
        analytics.capped(coalesce(live.output_image_tokens, 0)::numeric + coalesce(kept.output_image_tokens, 0)) as output_image_tokens,
        analytics.capped(coalesce(live.unattributed_tokens, 0)::numeric + coalesce(kept.unattributed_tokens, 0)) as unattributed_tokens,
        case when kept.other_units is null then live.other_units else analytics.units_of_all(array[live.other_units, kept.other_units]) end as other_units,
        case when kept.latency_p50_ms is null then live.latency_p50_ms else coalesce(rolled.latency_p50_ms, kept.latency_p50_ms) end as latency_p50_ms,
        case when kept.latency_p50_ms is null then live.latency_p95_ms else coalesce(rolled.latency_p95_ms, kept.latency_p95_ms) end as latency_p95_ms,
        case when kept.latency_p50_ms is null then live.latency_p99_ms else coalesce(rolled.latency_p99_ms, kept.latency_p99_ms) end as latency_p99_ms,
        case when kept.distinct_users is null then live.distinct_users else greatest(rolled.distinct_users, kept.distinct_users, live.distinct_users) end as distinct_users,
        trim_scale(case when live.cost_usd is null then kept.cost_usd else live.cost_usd + coalesce(kept.cost_usd, 0) end) as cost_usd,
        trim_scale(case when live.list_cost_usd is null then kept.list_cost_usd else live.list_cost_usd + coalesce(kept.list_cost_usd, 0) end) as list_cost_usd,
        trim_scale(case when live.reported_cost_usd is null then kept.reported_cost_usd else live.reported_cost_usd + coalesce(kept.reported_cost_usd, 0) end) as reported_cost_usd,
        coalesce(live.reported_requests, 0) + coalesce(kept.reported_requests, 0) as reported_requests,
        coalesce(live.unpriced_requests, 0) + coalesce(kept.unpriced_requests, 0) as unpriced_requests,
        coalesce(live.unlisted_requests, 0) + coalesce(kept.unlisted_requests, 0) as unlisted_requests
    from live
    full join kept using (team, service, provider, model)
    left join rolled using (team, service, provider, model)
),
{store_source}
