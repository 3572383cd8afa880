-- The stored costs of one writer by day, team, service, provider and model: the ids that it gave out match a pattern that nobody
-- else's match. What a row of usage_daily has more or less than its users on these days is added: nothing, if it is right.
with ours as (
    select
        usage_date,
        team,
        service,
        provider,
        model,
        coalesce(sum(list_cost_usd), 0) as list_cost_usd,
        coalesce(sum(reported_cost_usd), 0) as reported_cost_usd,
        coalesce(sum(cost_usd), 0) as cost_usd,
        sum(reported_requests)::numeric as reported_requests,
        sum(unlisted_requests)::numeric as unlisted_requests,
        sum(unpriced_requests)::numeric as unpriced_requests
    from analytics.usage_user_daily
    where user_id like %(ids)s
    group by usage_date, team, service, provider, model
),
users as (
    select
        usage_date,
        team,
        service,
        provider,
        model,
        coalesce(sum(list_cost_usd), 0) as list_cost_usd,
        coalesce(sum(reported_cost_usd), 0) as reported_cost_usd,
        coalesce(sum(cost_usd), 0) as cost_usd,
        sum(reported_requests) as reported_requests,
        sum(unlisted_requests) as unlisted_requests,
        sum(unpriced_requests) as unpriced_requests
    from analytics.usage_user_daily
    group by usage_date, team, service, provider, model
)
select
    usage_date,
    team,
    service,
    provider,
    model,
    ours.list_cost_usd + coalesce(daily.list_cost_usd, 0) - users.list_cost_usd as list_cost_usd,
    ours.reported_cost_usd + coalesce(daily.reported_cost_usd, 0) - users.reported_cost_usd as reported_cost_usd,
    ours.cost_usd + coalesce(daily.cost_usd, 0) - users.cost_usd as cost_usd,
    ours.reported_requests + coalesce(daily.reported_requests, 0) - users.reported_requests as reported_requests,
    ours.unlisted_requests + coalesce(daily.unlisted_requests, 0) - users.unlisted_requests as unlisted_requests,
    ours.unpriced_requests + coalesce(daily.unpriced_requests, 0) - users.unpriced_requests as unpriced_requests
from ours
join users using (usage_date, team, service, provider, model)
left join analytics.usage_daily as daily using (usage_date, team, service, provider, model)
order by usage_date, team, service, provider, model;
