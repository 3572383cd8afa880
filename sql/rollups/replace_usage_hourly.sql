-- Replaces one hour of analytics.usage_hourly by its events; rows that are right already stay untouched.
with source as (
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
{store_source}
