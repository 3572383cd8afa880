-- The latency that half, 95 and 99 percent of a day's requests do not exceed, over all teams and models, of the days up to one.
with counts as (
    select
        daily.usage_date,
        each.latency_ms,
        sum(each.requests) as requests
    from analytics.usage_latency_daily as daily
    cross join unnest(daily.latencies_ms, daily.requests) as each (latency_ms, requests)
    where daily.usage_date > %(after)s
      and daily.usage_date <= %(last)s
    group by daily.usage_date, each.latency_ms
),
ranked as (
    select
        usage_date,
        latency_ms,
        sum(requests) over (partition by usage_date order by latency_ms)
            / sum(requests) over (partition by usage_date) as share
    from counts
)
select
    usage_date,
    min(latency_ms) filter (where share >= 0.5)::float8,
    min(latency_ms) filter (where share >= 0.95)::float8,
    min(latency_ms) filter (where share >= 0.99)::float8
from ranked
group by usage_date
order by usage_date;
