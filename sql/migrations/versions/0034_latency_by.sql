-- Latency per window and one dimension: the views by service, by service and week, and by model are this one.
-- As they were, but for percentiles that are rounded to a tenth of a millisecond.
create or replace view {view} as
with counted as (
    select
        {window_of_day} as {window},
        {dimensions},
        counts.latency_ms,
        sum(counts.requests) as requests
    from analytics.usage_latency_daily as daily
    cross join unnest(daily.latencies_ms, daily.requests) as counts (latency_ms, requests)
    group by {window}, {dimensions}, counts.latency_ms
),
measured as (
    select
        {window},
        {dimensions},
        analytics.capped(sum(requests)) as measured_requests,
        analytics.latency_percentiles(
            array_agg(latency_ms order by latency_ms), array_agg(requests order by latency_ms)
        ) as percentiles_ms
    from counted
    group by {window}, {dimensions}
)
select
    {window},
    {dimensions},
    measured_requests,
    round(percentiles_ms[1]::numeric, 1)::float8 as latency_p50_ms,
    round(percentiles_ms[2]::numeric, 1)::float8 as latency_p95_ms,
    round(percentiles_ms[3]::numeric, 1)::float8 as latency_p99_ms
from measured;
