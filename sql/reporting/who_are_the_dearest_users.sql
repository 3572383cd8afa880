-- Which users cost most in the last 30 days, and on which service and model do they spend most of it?
with spent as (
    select
        days.user_id,
        days.team,
        days.service,
        days.model,
        sum(days.requests) as requests,
        sum(days.cost_usd) as cost_usd
    from reporting.usage_by_user as days
    join reporting.current_day on days.usage_date > current_day.today - 30
    group by days.user_id, days.team, days.service, days.model
),
placed as (
    select
        user_id,
        team,
        service,
        model,
        cost_usd,
        sum(requests) over (partition by user_id) as requests_of_user,
        sum(cost_usd) over (partition by user_id) as cost_of_user_usd,
        row_number() over (partition by user_id order by cost_usd desc nulls last, team, service, model) as place
    from spent
)
select
    user_id,
    requests_of_user::bigint as requests,
    round(cost_of_user_usd, 2) as cost_usd,
    team as dearest_team,
    service as dearest_service,
    model as dearest_model,
    round(cost_usd, 2) as cost_of_these_usd
from placed
where place = 1
order by cost_of_user_usd desc nulls last, user_id
limit 10;
