-- Why did the cost rise: what did each service and model cost in the last 14 days, and in the 14 before?
with spent as (
    select
        hours.service,
        hours.provider,
        hours.model,
        (hours.hour_start at time zone current_day.time_zone)::date > current_day.today - 14 as is_recent,
        hours.requests,
        hours.cost_usd,
        hours.unpriced_requests
    from reporting.usage_by_hour as hours
    cross join reporting.current_day
    where hours.hour_start > now() - interval '30 days'
      and (hours.hour_start at time zone current_day.time_zone)::date > current_day.today - 28
)
select
    service,
    provider,
    model,
    sum(requests) filter (where not is_recent)::bigint as requests_before,
    sum(requests) filter (where is_recent)::bigint as requests,
    round(sum(cost_usd) filter (where not is_recent), 2) as cost_usd_before,
    round(sum(cost_usd) filter (where is_recent), 2) as cost_usd,
    round(sum(case when is_recent then cost_usd else -cost_usd end), 2) as change_usd,
    sum(unpriced_requests)::bigint as unpriced_requests
from spent
group by service, provider, model
order by abs(sum(case when is_recent then cost_usd else -cost_usd end)) desc nulls last, service, provider, model
limit 12;
