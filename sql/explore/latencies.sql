-- Percentiles of latency of each group, from counts of each latency.
,
histograms as materialized (
    select {made_keys}, latencies_ms, requests
    from {source}
    where {time} >= {first}
      and {time} < {until}{kept_to}
),
-- Groups get numbers: to sort by a number takes a tenth of sorting by texts.
numbered as (
    select {keys}, row_number() over () as number
    from (
        select distinct {keys}
        from histograms
    ) as groups
),
counted as materialized (
    select numbered.number, counts.latency_ms, {requests} as requests
    from histograms
    join numbered using ({keys})
    cross join unnest(histograms.latencies_ms, histograms.requests) as counts (latency_ms, requests){merged}
),
totals as (
    select number, sum(requests) - 1 as last_rank
    from counted
    group by number
),
ranked as (
    select number, latency_ms, requests, sum(requests) over (partition by number order by latency_ms) as requests_so_far
    from counted
),
-- The few latencies at a place that is looked for; to join each of them with each share would take as long as all the rest.
near as (
    select ranked.*, totals.last_rank
    from ranked
    join totals using (number)
    where {is_near}
),
-- Percentiles are those of percentile_cont over all requests: the place in the sorted latencies, between two of them in proportion.
-- A place is between the latencies of the ranks below and above it, which are often the same.
places as (
    select
        near.number,
        shares.share,
        shares.share * near.last_rank as place,
        min(near.latency_ms) as lower_ms,
        max(near.latency_ms) as upper_ms
    from near
    cross join unnest({shares}::float8[]) as shares (share)
    where near.requests_so_far > floor(shares.share * near.last_rank)
      and near.requests_so_far - near.requests <= ceil(shares.share * near.last_rank)
    group by near.number, shares.share, near.last_rank
),
found as (
    select
        number,
        array_agg(lower_ms + (upper_ms - lower_ms) * (place - floor(place)) order by share) as ms
    from places
    group by number
),
latencies as (
    select {keys}{percentiles}
    from found
    join numbered using (number)
)
