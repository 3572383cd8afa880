-- Makes one day of {table}, by {member}, from its events and what is kept of dropped ones; rows that are right already stay untouched.
-- Tokens are summed up per price before they are multiplied: as exact as an event at a time, and a third of the time. Units that
-- few events have are summed up by a filter: a sum that never begins takes no memory, and there is one for each user and model.
with summed as (
    select
        event.team,
        event.service,
        event.provider,
        event.model,
        {of_event} as {member},
        event.model_price_id,
        event.costs_nothing,
        event.reported_cost_usd is not null as is_reported,
        count(*) as requests,
        count(*) filter (where event.is_error) as errors,
        sum(event.input_tokens) as input_tokens,
        sum(event.output_tokens) as output_tokens,
        sum(event.total_tokens) as total_tokens,
        sum(event.cache_read_tokens) filter (where event.cache_read_tokens is not null) as cache_read_tokens,
        sum(event.cache_write_tokens) filter (where event.cache_write_tokens is not null) as cache_write_tokens,
        sum(event.output_reasoning_tokens) filter (where event.output_reasoning_tokens is not null) as output_reasoning_tokens,
        sum(event.input_audio_tokens) filter (where event.input_audio_tokens is not null) as input_audio_tokens,
        sum(event.output_audio_tokens) filter (where event.output_audio_tokens is not null) as output_audio_tokens,
        sum(event.input_image_tokens) filter (where event.input_image_tokens is not null) as input_image_tokens,
        sum(event.output_image_tokens) filter (where event.output_image_tokens is not null) as output_image_tokens,
        sum(event.unattributed_tokens) filter (where event.unattributed_tokens is not null) as unattributed_tokens,
        sum(event.units_usd) filter (where event.other_units is not null) as units_usd,
        sum(event.reported_cost_usd) filter (where event.reported_cost_usd is not null) as reported_cost_usd
    from analytics.priced_events(%(first)s, %(until)s, %(price_version)s) as event
    group by event.team, event.service, event.provider, event.model, {of_event}, event.model_price_id, event.costs_nothing, is_reported
),
listed as (
    select
        summed.team,
        summed.service,
        summed.provider,
        summed.model,
        summed.{member},
        summed.is_reported,
        summed.requests,
        summed.errors,
        summed.input_tokens,
        summed.output_tokens,
        summed.total_tokens,
        summed.cache_read_tokens,
        summed.cache_write_tokens,
        summed.output_reasoning_tokens,
        summed.input_audio_tokens,
        summed.output_audio_tokens,
        summed.input_image_tokens,
        summed.output_image_tokens,
        summed.unattributed_tokens,
        summed.reported_cost_usd,
        case
            when summed.costs_nothing then 0
            else (
                    coalesce(summed.input_tokens, 0) * price.input_usd
                    + coalesce(summed.output_tokens, 0) * price.output_usd
                    + coalesce(summed.cache_read_tokens, 0) * price.cache_read_usd
                    + coalesce(summed.cache_write_tokens, 0) * price.cache_write_usd
                    + coalesce(summed.output_reasoning_tokens, 0) * price.output_reasoning_usd
                    + coalesce(summed.input_audio_tokens, 0) * price.input_audio_usd
                    + coalesce(summed.output_audio_tokens, 0) * price.output_audio_usd
                    + coalesce(summed.input_image_tokens, 0) * price.input_image_usd
                    + coalesce(summed.output_image_tokens, 0) * price.output_image_usd
                ) * 0.000001
                + summed.requests * price.request_usd
                + coalesce(summed.units_usd, 0)
        end as list_cost_usd
    from summed
    left join analytics.model_prices as price
        on price.model_price_id = summed.model_price_id
),
live as (
    select
        team,
        service,
        provider,
        model,
        {member},
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        analytics.capped(sum(input_tokens)) as input_tokens,
        analytics.capped(sum(output_tokens)) as output_tokens,
        analytics.capped(sum(total_tokens)) as total_tokens,
        analytics.capped(sum(cache_read_tokens) filter (where cache_read_tokens is not null)) as cache_read_tokens,
        analytics.capped(sum(cache_write_tokens) filter (where cache_write_tokens is not null)) as cache_write_tokens,
        analytics.capped(sum(output_reasoning_tokens) filter (where output_reasoning_tokens is not null)) as output_reasoning_tokens,
        analytics.capped(sum(input_audio_tokens) filter (where input_audio_tokens is not null)) as input_audio_tokens,
        analytics.capped(sum(output_audio_tokens) filter (where output_audio_tokens is not null)) as output_audio_tokens,
        analytics.capped(sum(input_image_tokens) filter (where input_image_tokens is not null)) as input_image_tokens,
        analytics.capped(sum(output_image_tokens) filter (where output_image_tokens is not null)) as output_image_tokens,
        analytics.capped(sum(unattributed_tokens) filter (where unattributed_tokens is not null)) as unattributed_tokens,
        trim_scale(round(sum(case when is_reported then reported_cost_usd else list_cost_usd end), 20)) as cost_usd,
        trim_scale(round(sum(list_cost_usd), 20)) as list_cost_usd,
        trim_scale(sum(reported_cost_usd) filter (where is_reported)) as reported_cost_usd,
        coalesce(sum(requests) filter (where is_reported), 0)::bigint as reported_requests,
        coalesce(sum(requests) filter (where list_cost_usd is null and not is_reported), 0)::bigint as unpriced_requests,
        coalesce(sum(requests) filter (where list_cost_usd is null), 0)::bigint as unlisted_requests
    from listed
    group by team, service, provider, model, {member}
),
-- At once for all: a sum for each user and model would take as long as all the others together.
units as (
    select
        team,
        service,
        provider,
        model,
        {member},
        jsonb_object_agg(name, count) as other_units
    from (
        select
            event.team,
            event.service,
            event.provider,
            event.model,
            {of_event} as {member},
            unit.key as name,
            trim_scale(sum(unit.value::numeric)) as count
        from analytics.usage_events as event
        cross join jsonb_each_text(event.other_units) as unit
        where event.event_time >= %(first)s
          and event.event_time < %(until)s
          and event.other_units is not null
          and unit.value is not null
        group by event.team, event.service, event.provider, event.model, {of_event}, unit.key
    ) as counted
    group by team, service, provider, model, {member}
),
kept as (
    select
        team,
        service,
        provider,
        model,
        {member},
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        sum(input_tokens) as input_tokens,
        sum(output_tokens) as output_tokens,
        sum(total_tokens) as total_tokens,
        sum(cache_read_tokens) as cache_read_tokens,
        sum(cache_write_tokens) as cache_write_tokens,
        sum(output_reasoning_tokens) as output_reasoning_tokens,
        sum(input_audio_tokens) as input_audio_tokens,
        sum(output_audio_tokens) as output_audio_tokens,
        sum(input_image_tokens) as input_image_tokens,
        sum(output_image_tokens) as output_image_tokens,
        sum(unattributed_tokens) as unattributed_tokens,
        analytics.sum_units(other_units) as other_units,
        sum(cost_usd) as cost_usd,
        sum(list_cost_usd) as list_cost_usd,
        sum(reported_cost_usd) as reported_cost_usd,
        sum(reported_requests)::bigint as reported_requests,
        sum(unpriced_requests)::bigint as unpriced_requests,
        sum(unlisted_requests)::bigint as unlisted_requests
    from {kept}
    where usage_date = %(window)s
    group by team, service, provider, model, {member}
),
source as (
    select
        team,
        service,
        provider,
        model,
        {member},
        coalesce(live.requests, 0) + coalesce(kept.requests, 0) as requests,
        coalesce(live.errors, 0) + coalesce(kept.errors, 0) as errors,
        analytics.capped(coalesce(live.input_tokens, 0) + coalesce(kept.input_tokens, 0)) as input_tokens,
        analytics.capped(coalesce(live.output_tokens, 0) + coalesce(kept.output_tokens, 0)) as output_tokens,
        analytics.capped(coalesce(live.total_tokens, 0) + coalesce(kept.total_tokens, 0)) as total_tokens,
        analytics.capped(coalesce(live.cache_read_tokens, 0) + coalesce(kept.cache_read_tokens, 0)) as cache_read_tokens,
        analytics.capped(coalesce(live.cache_write_tokens, 0) + coalesce(kept.cache_write_tokens, 0)) as cache_write_tokens,
        analytics.capped(coalesce(live.output_reasoning_tokens, 0) + coalesce(kept.output_reasoning_tokens, 0)) as output_reasoning_tokens,
        analytics.capped(coalesce(live.input_audio_tokens, 0) + coalesce(kept.input_audio_tokens, 0)) as input_audio_tokens,
        analytics.capped(coalesce(live.output_audio_tokens, 0) + coalesce(kept.output_audio_tokens, 0)) as output_audio_tokens,
        analytics.capped(coalesce(live.input_image_tokens, 0) + coalesce(kept.input_image_tokens, 0)) as input_image_tokens,
        analytics.capped(coalesce(live.output_image_tokens, 0) + coalesce(kept.output_image_tokens, 0)) as output_image_tokens,
        analytics.capped(coalesce(live.unattributed_tokens, 0) + coalesce(kept.unattributed_tokens, 0)) as unattributed_tokens,
        case when kept.other_units is null then units.other_units else analytics.units_of_all(array[units.other_units, kept.other_units]) end as other_units,
        trim_scale(case when live.cost_usd is null then kept.cost_usd else live.cost_usd + coalesce(kept.cost_usd, 0) end) as cost_usd,
        trim_scale(case when live.list_cost_usd is null then kept.list_cost_usd else live.list_cost_usd + coalesce(kept.list_cost_usd, 0) end) as list_cost_usd,
        trim_scale(case when live.reported_cost_usd is null then kept.reported_cost_usd else live.reported_cost_usd + coalesce(kept.reported_cost_usd, 0) end) as reported_cost_usd,
        coalesce(live.reported_requests, 0) + coalesce(kept.reported_requests, 0) as reported_requests,
        coalesce(live.unpriced_requests, 0) + coalesce(kept.unpriced_requests, 0) as unpriced_requests,
        coalesce(live.unlisted_requests, 0) + coalesce(kept.unlisted_requests, 0) as unlisted_requests
    from live
    full join kept using (team, service, provider, model, {member})
    left join units using (team, service, provider, model, {member})
),
{store_source}
