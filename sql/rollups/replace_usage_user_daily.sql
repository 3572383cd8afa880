-- Replaces one day of analytics.usage_user_daily by its events; rows that are right already stay untouched.
-- Tokens are summed up per price before they are multiplied: as exact as an event at a time, and a third of the time.
with summed as (
    select
        event.team,
        event.service,
        event.provider,
        event.model,
        event.user_id,
        price.model_price_id,
        count(*) as requests,
        count(*) filter (where analytics.is_error(event.status_code, event.error_type)) as errors,
        sum(event.input_tokens) as input_tokens,
        sum(event.output_tokens) as output_tokens,
        sum(event.total_tokens) as total_tokens
    from analytics.usage_events as event
    left join analytics.model_prices as price
        on price.price_version = %(price_version)s
        and price.provider = event.provider
        and price.model = event.model
        and event.event_time >= price.valid_from
        and event.event_time < price.valid_until
        and (event.event_time at time zone 'UTC')::time >= price.daily_from
        and (event.event_time at time zone 'UTC')::time < price.daily_until
        and event.input_tokens >= price.input_tokens_from
        and (price.input_tokens_until is null or event.input_tokens < price.input_tokens_until)
        and event.output_tokens is not null
    where event.event_time >= %(first)s
      and event.event_time < %(until)s
    group by event.team, event.service, event.provider, event.model, event.user_id, price.model_price_id
),
source as (
    select
        summed.team,
        summed.service,
        summed.provider,
        summed.model,
        summed.user_id,
        sum(summed.requests)::bigint as requests,
        sum(summed.errors)::bigint as errors,
        analytics.capped(sum(summed.input_tokens)) as input_tokens,
        analytics.capped(sum(summed.output_tokens)) as output_tokens,
        analytics.capped(sum(summed.total_tokens)) as total_tokens,
        trim_scale(sum(
            (summed.input_tokens * price.input_usd + summed.output_tokens * price.output_usd) * 0.000001
                + summed.requests * price.request_usd
        )) as cost_usd,
        coalesce(sum(summed.requests) filter (where price.model_price_id is null), 0)::bigint as unpriced_requests
    from summed
    left join analytics.model_prices as price
        on price.model_price_id = summed.model_price_id
    group by summed.team, summed.service, summed.provider, summed.model, summed.user_id
),
gone as (
    delete from analytics.usage_user_daily as t
    where usage_date = %(window)s
      and not exists (
        select 1
        from source
        where source.team = t.team
          and source.service = t.service
          and source.provider = t.provider
          and source.model = t.model
          and source.user_id = t.user_id
      )
    returning 1
),
changed as (
    select
        source.team,
        source.service,
        source.provider,
        source.model,
        source.user_id,
        source.requests,
        source.errors,
        source.input_tokens,
        source.output_tokens,
        source.total_tokens,
        source.cost_usd,
        source.unpriced_requests
    from source
    left join analytics.usage_user_daily as t
        on t.usage_date = %(window)s
        and t.team = source.team
        and t.service = source.service
        and t.provider = source.provider
        and t.model = source.model
        and t.user_id = source.user_id
    where (
        t.requests,
        t.errors,
        t.input_tokens,
        t.output_tokens,
        t.total_tokens,
        t.cost_usd,
        t.unpriced_requests
    ) is distinct from (
        source.requests,
        source.errors,
        source.input_tokens,
        source.output_tokens,
        source.total_tokens,
        source.cost_usd,
        source.unpriced_requests
    )
),
stored as (
    insert into analytics.usage_user_daily as t (
        usage_date,
        team,
        service,
        provider,
        model,
        user_id,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cost_usd,
        unpriced_requests
    )
    select
        %(window)s,
        team,
        service,
        provider,
        model,
        user_id,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cost_usd,
        unpriced_requests
    from changed
    on conflict (usage_date, team, service, provider, model, user_id) do update
    set requests = excluded.requests,
        errors = excluded.errors,
        input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens,
        total_tokens = excluded.total_tokens,
        cost_usd = excluded.cost_usd,
        unpriced_requests = excluded.unpriced_requests,
        updated_at = now()
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;
