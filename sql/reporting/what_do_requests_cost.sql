-- What do 1,000 requests cost, by model and month?
select
    month_start,
    provider,
    model,
    requests,
    round(1000 * cost_usd / nullif(requests - unpriced_requests, 0), 2) as cost_per_1000_requests_usd,
    unpriced_requests
from reporting.cost_by_model_and_month
order by month_start desc, cost_per_1000_requests_usd desc nulls last, provider, model
limit 12;
