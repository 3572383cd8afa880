-- Makes one day of analytics.usage_user_daily from its events and what is kept of dropped ones; rows that are right already stay untouched.
-- Tokens are summed up per price before they are multiplied: as exact as an event at a time, and a third of the time.
-- The join with prices is that of analytics.roll_up_events, which counts hours. A migration has landed with that one: a fragment of
-- both would change what the migration leaves whenever this query changed.
with summed as (
    select
        event.team,
        event.service,
        event.provider,
        event.model,
        event.user_id,
        price.model_price_id,
        analytics.costs_nothing(event.status_code, event.error_type, event.output_tokens) as costs_nothing,
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
        and coalesce(event.input_tokens, 0) >= price.input_tokens_from
        and (price.input_tokens_until is null or coalesce(event.input_tokens, 0) < price.input_tokens_until)
        and (
            event.input_tokens is not null
            or event.total_tokens = event.output_tokens
            or (price.input_usd = 0 and price.input_tokens_until is null)
        )
        and (event.output_tokens is not null or event.total_tokens = event.input_tokens or price.output_usd = 0)
    where event.event_time >= %(first)s
      and event.event_time < %(until)s
    group by event.team, event.service, event.provider, event.model, event.user_id, price.model_price_id, costs_nothing
),
live as (
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
            case
                when summed.costs_nothing then 0
                else (coalesce(summed.input_tokens, 0) * price.input_usd + coalesce(summed.output_tokens, 0) * price.output_usd)
                    * 0.000001 + summed.requests * price.request_usd
            end
        )) as cost_usd,
        coalesce(
            sum(summed.requests) filter (where price.model_price_id is null and not summed.costs_nothing), 0
        )::bigint as unpriced_requests
    from summed
    left join analytics.model_prices as price
        on price.model_price_id = summed.model_price_id
    group by summed.team, summed.service, summed.provider, summed.model, summed.user_id
),
kept as (
    select
        team,
        service,
        provider,
        model,
        user_id,
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        sum(input_tokens) as input_tokens,
        sum(output_tokens) as output_tokens,
        sum(total_tokens) as total_tokens,
        sum(cost_usd) as cost_usd,
        sum(unpriced_requests)::bigint as unpriced_requests
    from analytics.usage_user_daily_kept
    where usage_date = %(window)s
    group by team, service, provider, model, user_id
),
source as (
    select
        team,
        service,
        provider,
        model,
        user_id,
        coalesce(live.requests, 0) + coalesce(kept.requests, 0) as requests,
        coalesce(live.errors, 0) + coalesce(kept.errors, 0) as errors,
        analytics.capped(coalesce(live.input_tokens, 0) + coalesce(kept.input_tokens, 0)) as input_tokens,
        analytics.capped(coalesce(live.output_tokens, 0) + coalesce(kept.output_tokens, 0)) as output_tokens,
        analytics.capped(coalesce(live.total_tokens, 0) + coalesce(kept.total_tokens, 0)) as total_tokens,
        trim_scale(case when live.cost_usd is null then kept.cost_usd else live.cost_usd + coalesce(kept.cost_usd, 0) end) as cost_usd,
        coalesce(live.unpriced_requests, 0) + coalesce(kept.unpriced_requests, 0) as unpriced_requests
    from live
    full join kept using (team, service, provider, model, user_id)
),
{store_source}
