-- Which team spent most this month, and on which model?
with spent as (
    select
        costs.team,
        costs.model,
        costs.cost_usd,
        sum(costs.cost_usd) over (partition by costs.team) as team_cost_usd,
        sum(costs.unpriced_requests) over (partition by costs.team) as unpriced_requests,
        row_number() over (partition by costs.team order by costs.cost_usd desc nulls last, costs.provider, costs.model) as place
    from reporting.cost_by_team_and_month as costs
    join reporting.current_day on current_day.month_start = costs.month_start
)
select
    team,
    round(team_cost_usd, 2) as cost_usd,
    model as dearest_model,
    round(cost_usd, 2) as cost_of_model_usd,
    unpriced_requests
from spent
where place = 1
order by team_cost_usd desc nulls last, team;
