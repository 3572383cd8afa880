-- Usage per day and one dimension: the views by team, by service and by model are this one.
-- New columns come last, so that views of others over this one stay.
create or replace view {view} as
select
    usage_date,
    {dimensions},
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    analytics.capped(sum(input_tokens)) as input_tokens,
    analytics.capped(sum(output_tokens)) as output_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens,
    (
        select count(distinct users.user_id)
        from analytics.usage_user_daily as users
        where users.usage_date = daily.usage_date
          and {users_of_group}
    ) as distinct_users,
    sum(cost_usd) as cost_usd,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests,
    sum(list_cost_usd) as list_cost_usd,
    sum(reported_cost_usd) as reported_cost_usd,
    analytics.capped(sum(reported_requests)) as reported_requests,
    analytics.capped(sum(unlisted_requests)) as unlisted_requests,
    analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
    analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
    analytics.capped(sum(output_reasoning_tokens)) as output_reasoning_tokens,
    analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
    analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
    analytics.capped(sum(input_image_tokens)) as input_image_tokens,
    analytics.capped(sum(output_image_tokens)) as output_image_tokens,
    analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
    analytics.sum_units(other_units) filter (where other_units is not null) as other_units
from analytics.usage_daily as daily
group by usage_date, {dimensions};
