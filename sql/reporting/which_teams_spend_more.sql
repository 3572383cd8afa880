-- Which teams spend more than before: the last 7 days against the 7 before, and did more requests do it, or dearer ones?
with days as (
    select
        usage.team,
        usage.requests,
        usage.requests - usage.unpriced_requests as known_requests,
        usage.cost_usd,
        usage.usage_date > current_day.today - 7 as is_recent
    from reporting.usage_by_day as usage
    join reporting.current_day on usage.usage_date > current_day.today - 14
),
spent as (
    select
        team,
        coalesce(sum(requests) filter (where not is_recent), 0) as requests_before,
        coalesce(sum(requests) filter (where is_recent), 0) as requests,
        coalesce(sum(known_requests) filter (where not is_recent), 0) as known_before,
        coalesce(sum(known_requests) filter (where is_recent), 0) as known,
        -- Without requests it is 0; with requests that all have no price it is not known.
        case when bool_and(is_recent) then 0 else sum(cost_usd) filter (where not is_recent) end as cost_before_usd,
        case when bool_or(is_recent) then sum(cost_usd) filter (where is_recent) else 0 end as cost_usd
    from days
    group by team
),
-- What a request cost before, of those whose cost is known.
each as (
    select spent.*, cost_before_usd / nullif(known_before, 0) as each_before_usd
    from spent
)
select
    team,
    requests_before::bigint as requests_before,
    requests::bigint as requests,
    round(cost_before_usd, 2) as cost_before_usd,
    round(cost_usd, 2) as cost_usd,
    round(cost_usd - cost_before_usd, 2) as change_usd,
    round(
        case
            when requests_before = 0 then cost_usd
            when requests = 0 then -cost_before_usd
            else (requests - requests_before) * known / requests * each_before_usd
        end,
        2
    ) as by_more_requests_usd,
    round(
        case
            when requests_before = 0 or requests = 0 then 0
            else cost_usd - known * each_before_usd
        end,
        2
    ) as by_dearer_requests_usd,
    -- A share of the requests whose cost became known, or unknown.
    round(
        case
            when requests_before = 0 or requests = 0 then 0
            else (requests_before * known / requests - known_before) * each_before_usd
        end,
        2
    ) as by_known_costs_usd
from each
order by cost_usd - cost_before_usd desc nulls last, team;
