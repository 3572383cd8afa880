-- What senders report for requests of a model on these days, and what the same requests cost by list prices; most reported first.
-- A row of the roll-up with a reported request that has no list price is left out: nobody knows how much of the reports is of it.
-- Requests with neither are in no sum.
select
    provider,
    model,
    sum(reported_requests)::bigint as requests,
    trim_scale(sum(reported_cost_usd)) as reported_usd,
    -- The effective cost is what is reported, and of all others the list price.
    trim_scale(sum(list_cost_usd) - (sum(cost_usd) - sum(reported_cost_usd))) as listed_usd
from analytics.usage_daily
where usage_date between %(first_day)s and %(last_day)s
  and reported_requests > 0
  and unlisted_requests <= unpriced_requests
group by provider, model
order by reported_usd desc, provider, model;
