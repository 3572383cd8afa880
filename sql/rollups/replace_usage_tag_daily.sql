-- Makes one day of analytics.usage_tag_daily from its events and what is kept of dropped ones; rows that are right already stay untouched.
-- Of each tag the values with the most requests stay apart, and all others are one, so that a tag of a million values costs no more
-- than one of a thousand. Without `rollup_tags` the day keeps the tags that it has.
with tagged as (
    select
        tag.name as tag,
        event.tags ->> tag.name as value,
        event.team,
        event.provider,
        event.model,
        event.is_error,
        event.input_tokens,
        event.output_tokens,
        event.total_tokens,
        event.cache_read_tokens,
        event.cache_write_tokens,
        event.output_reasoning_tokens,
        event.input_audio_tokens,
        event.output_audio_tokens,
        event.input_image_tokens,
        event.output_image_tokens,
        event.unattributed_tokens,
        event.other_units,
        event.list_cost_usd,
        event.reported_cost_usd
    from analytics.priced_events(%(first)s, %(until)s, %(price_version)s) as event
    cross join unnest(coalesce(
        %(rollup_tags)s::text[],
        array(select distinct tag from analytics.usage_tag_daily where usage_date = %(window)s)
    )) as tag (name)
    where event.tags is not null
      and event.tags ? tag.name
),
counted as (
    select
        tag,
        value,
        false as is_rest,
        team,
        provider,
        model,
        count(*) as requests,
        count(*) filter (where is_error) as errors,
        coalesce(sum(input_tokens), 0) as input_tokens,
        coalesce(sum(output_tokens), 0) as output_tokens,
        coalesce(sum(total_tokens), 0) as total_tokens,
        coalesce(sum(cache_read_tokens), 0) as cache_read_tokens,
        coalesce(sum(cache_write_tokens), 0) as cache_write_tokens,
        coalesce(sum(output_reasoning_tokens), 0) as output_reasoning_tokens,
        coalesce(sum(input_audio_tokens), 0) as input_audio_tokens,
        coalesce(sum(output_audio_tokens), 0) as output_audio_tokens,
        coalesce(sum(input_image_tokens), 0) as input_image_tokens,
        coalesce(sum(output_image_tokens), 0) as output_image_tokens,
        coalesce(sum(unattributed_tokens), 0) as unattributed_tokens,
        analytics.sum_units(other_units) filter (where other_units is not null) as other_units,
        trim_scale(round(sum(coalesce(reported_cost_usd, list_cost_usd)), 20)) as cost_usd,
        trim_scale(round(sum(list_cost_usd), 20)) as list_cost_usd,
        sum(reported_cost_usd) as reported_cost_usd,
        count(reported_cost_usd) as reported_requests,
        count(*) filter (where coalesce(reported_cost_usd, list_cost_usd) is null) as unpriced_requests,
        count(*) filter (where list_cost_usd is null) as unlisted_requests
    from tagged
    group by tag, value, team, provider, model
    union all
    select
        tag,
        value,
        is_rest,
        team,
        provider,
        model,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cache_read_tokens,
        cache_write_tokens,
        output_reasoning_tokens,
        input_audio_tokens,
        output_audio_tokens,
        input_image_tokens,
        output_image_tokens,
        unattributed_tokens,
        other_units,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        reported_requests,
        unpriced_requests,
        unlisted_requests
    from analytics.usage_tag_daily_kept
    where usage_date = %(window)s
),
placed as (
    select
        tag,
        value,
        row_number() over (partition by tag order by sum(requests) desc, value) as place
    from counted
    where not is_rest
    group by tag, value
),
source as (
    select
        counted.tag,
        case when named.value is null then 'other' else counted.value end as value,
        named.value is null as is_rest,
        counted.team,
        counted.provider,
        counted.model,
        sum(counted.requests)::bigint as requests,
        sum(counted.errors)::bigint as errors,
        analytics.capped(sum(counted.input_tokens)) as input_tokens,
        analytics.capped(sum(counted.output_tokens)) as output_tokens,
        analytics.capped(sum(counted.total_tokens)) as total_tokens,
        analytics.capped(sum(counted.cache_read_tokens)) as cache_read_tokens,
        analytics.capped(sum(counted.cache_write_tokens)) as cache_write_tokens,
        analytics.capped(sum(counted.output_reasoning_tokens)) as output_reasoning_tokens,
        analytics.capped(sum(counted.input_audio_tokens)) as input_audio_tokens,
        analytics.capped(sum(counted.output_audio_tokens)) as output_audio_tokens,
        analytics.capped(sum(counted.input_image_tokens)) as input_image_tokens,
        analytics.capped(sum(counted.output_image_tokens)) as output_image_tokens,
        analytics.capped(sum(counted.unattributed_tokens)) as unattributed_tokens,
        analytics.sum_units(counted.other_units) filter (where counted.other_units is not null) as other_units,
        trim_scale(sum(counted.cost_usd)) as cost_usd,
        trim_scale(sum(counted.list_cost_usd)) as list_cost_usd,
        trim_scale(sum(counted.reported_cost_usd)) as reported_cost_usd,
        sum(counted.reported_requests)::bigint as reported_requests,
        sum(counted.unpriced_requests)::bigint as unpriced_requests,
        sum(counted.unlisted_requests)::bigint as unlisted_requests
    from counted
    left join placed as named
        on not counted.is_rest
        and named.tag = counted.tag
        and named.value = counted.value
        and named.place <= %(most_values)s
    group by counted.tag, 2, 3, counted.team, counted.provider, counted.model
),
{store_source}
