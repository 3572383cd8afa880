-- Makes one day of analytics.usage_user_team_daily from the users of the day, which were made before; rows that are right stay untouched.
with source as (
    select
        team,
        user_id,
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        analytics.capped(sum(input_tokens)) as input_tokens,
        analytics.capped(sum(output_tokens)) as output_tokens,
        analytics.capped(sum(total_tokens)) as total_tokens,
        analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
        analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
        analytics.capped(sum(output_reasoning_tokens)) as output_reasoning_tokens,
        analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
        analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
        analytics.capped(sum(input_image_tokens)) as input_image_tokens,
        analytics.capped(sum(output_image_tokens)) as output_image_tokens,
        analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
        trim_scale(sum(cost_usd)) as cost_usd,
        trim_scale(sum(list_cost_usd)) as list_cost_usd,
        trim_scale(sum(reported_cost_usd)) as reported_cost_usd,
        sum(reported_requests)::bigint as reported_requests,
        sum(unpriced_requests)::bigint as unpriced_requests,
        sum(unlisted_requests)::bigint as unlisted_requests
    from analytics.usage_user_daily
    where usage_date = %(window)s
    group by team, user_id
),
{store_source}
