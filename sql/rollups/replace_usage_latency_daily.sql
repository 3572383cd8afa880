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
gone as (
    delete from analytics.usage_latency_daily as t
    where usage_date = %(window)s
      and not exists (
        select 1
        from source
        where source.team = t.team
          and source.service = t.service
          and source.provider = t.provider
          and source.model = t.model
      )
    returning 1
),
changed as (
    select
        source.team,
        source.service,
        source.provider,
        source.model,
        source.latencies_ms,
        source.requests
    from source
    left join analytics.usage_latency_daily as t
        on t.usage_date = %(window)s
        and t.team = source.team
        and t.service = source.service
        and t.provider = source.provider
        and t.model = source.model
    where (
        t.latencies_ms,
        t.requests
    ) is distinct from (
        source.latencies_ms,
        source.requests
    )
),
stored as (
    insert into analytics.usage_latency_daily as t (
        usage_date,
        team,
        service,
        provider,
        model,
        latencies_ms,
        requests
    )
    select
        %(window)s,
        team,
        service,
        provider,
        model,
        latencies_ms,
        requests
    from changed
    on conflict (usage_date, team, service, provider, model) do update
    set latencies_ms = excluded.latencies_ms,
        requests = excluded.requests,
        updated_at = now()
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;
