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
gone as (
    delete from analytics.usage_hourly as t
    where hour_start = %(window)s
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
        source.requests,
        source.errors,
        source.input_tokens,
        source.output_tokens,
        source.total_tokens,
        source.latency_p50_ms,
        source.latency_p95_ms,
        source.latency_p99_ms,
        source.distinct_users,
        source.cost_usd,
        source.unpriced_requests
    from source
    left join analytics.usage_hourly as t
        on t.hour_start = %(window)s
        and t.team = source.team
        and t.service = source.service
        and t.provider = source.provider
        and t.model = source.model
    where (
        t.requests,
        t.errors,
        t.input_tokens,
        t.output_tokens,
        t.total_tokens,
        t.latency_p50_ms,
        t.latency_p95_ms,
        t.latency_p99_ms,
        t.distinct_users,
        t.cost_usd,
        t.unpriced_requests
    ) is distinct from (
        source.requests,
        source.errors,
        source.input_tokens,
        source.output_tokens,
        source.total_tokens,
        source.latency_p50_ms,
        source.latency_p95_ms,
        source.latency_p99_ms,
        source.distinct_users,
        source.cost_usd,
        source.unpriced_requests
    )
),
stored as (
    insert into analytics.usage_hourly as t (
        hour_start,
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
    )
    select
        %(window)s,
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
    from changed
    on conflict (hour_start, team, service, provider, model) do update
    set requests = excluded.requests,
        errors = excluded.errors,
        input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens,
        total_tokens = excluded.total_tokens,
        latency_p50_ms = excluded.latency_p50_ms,
        latency_p95_ms = excluded.latency_p95_ms,
        latency_p99_ms = excluded.latency_p99_ms,
        distinct_users = excluded.distinct_users,
        cost_usd = excluded.cost_usd,
        unpriced_requests = excluded.unpriced_requests,
        updated_at = now()
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;
