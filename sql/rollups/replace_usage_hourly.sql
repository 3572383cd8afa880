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
        latency_p50_ms,
        latency_p95_ms,
        latency_p99_ms,
        distinct_users,
        cost_usd,
        unpriced_requests
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
        case when kept.latency_p50_ms is null then live.latency_p50_ms else coalesce(rolled.latency_p50_ms, kept.latency_p50_ms) end as latency_p50_ms,
        case when kept.latency_p50_ms is null then live.latency_p95_ms else coalesce(rolled.latency_p95_ms, kept.latency_p95_ms) end as latency_p95_ms,
        case when kept.latency_p50_ms is null then live.latency_p99_ms else coalesce(rolled.latency_p99_ms, kept.latency_p99_ms) end as latency_p99_ms,
        case when kept.distinct_users is null then live.distinct_users else greatest(rolled.distinct_users, kept.distinct_users, live.distinct_users) end as distinct_users,
        trim_scale(case when live.cost_usd is null then kept.cost_usd else live.cost_usd + coalesce(kept.cost_usd, 0) end) as cost_usd,
        coalesce(live.unpriced_requests, 0) + coalesce(kept.unpriced_requests, 0) as unpriced_requests
    from live
    full join kept using (team, service, provider, model)
    left join rolled using (team, service, provider, model)
),
{store_source}
