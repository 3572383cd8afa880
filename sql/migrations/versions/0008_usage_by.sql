-- Usage per day and one dimension: the views by team, by service and by model are this one.
-- Sums come from the few rows of usage_daily; users are counted only for the groups that are asked for, by index, and not at all
-- when nobody asks how many they are. Summing up a year of 2,000 users for each query took ten times as long.
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
    analytics.capped(sum(unpriced_requests)) as unpriced_requests
from analytics.usage_daily as daily
group by usage_date, {dimensions};
