-- Makes one day of analytics.usage_latency_dimension_daily from the latencies of the day, which were made before; rows that are right
-- stay untouched.
with each as (
    select team, service, provider, model, counts.latency_ms, counts.requests
    from analytics.usage_latency_daily as daily
    cross join unnest(daily.latencies_ms, daily.requests) as counts (latency_ms, requests)
    where daily.usage_date = %(window)s
),
counted as (
    select
        case grouping(team, service, provider, model)
            when 15 then 'all'
            when 7 then 'team'
            when 11 then 'service'
            when 13 then 'provider'
            when 14 then 'model'
        end as dimension,
        coalesce(team, service, provider, model, '') as value,
        latency_ms,
        sum(requests)::bigint as requests
    from each
    group by grouping sets (
        (latency_ms),
        (team, latency_ms),
        (service, latency_ms),
        (provider, latency_ms),
        (model, latency_ms)
    )
),
source as (
    select
        dimension,
        value,
        array_agg(latency_ms order by latency_ms) as latencies_ms,
        array_agg(requests order by latency_ms) as requests
    from counted
    group by dimension, value
),
{store_source}
