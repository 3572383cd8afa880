-- Replaces one day of analytics.usage_latency_daily by its events; rows that are right already stay untouched.
-- Latencies are gathered unsorted and sorted per group, as integers: to sort events by their texts takes three times as long.
with gathered as (
    select
        team,
        service,
        provider,
        model,
        array_agg(latency_ms) as latencies_ms
    from analytics.usage_events
    where event_time >= %(first)s
      and event_time < %(until)s
      and latency_ms is not null
    group by team, service, provider, model
),
source as (
    select
        gathered.team,
        gathered.service,
        gathered.provider,
        gathered.model,
        counted.latencies_ms,
        counted.requests
    from gathered
    cross join lateral (
        select
            array_agg(latency_ms order by latency_ms) as latencies_ms,
            array_agg(requests order by latency_ms) as requests
        from (
            select
                latency_ms,
                count(*) as requests
            from unnest(gathered.latencies_ms) as latency_ms
            group by latency_ms
        ) as counts
    ) as counted
),
{store_source}
