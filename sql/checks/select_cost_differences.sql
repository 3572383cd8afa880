-- What senders report for requests of a model on these days, and what the same requests cost by list prices; most reported first.
-- Requests without a list price make their model incomparable: nobody knows whether they are among the reported ones.
select
    provider,
    model,
    sum(reported_requests)::bigint as requests,
    trim_scale(sum(reported_cost_usd)) as reported_usd,
    -- The effective cost is what is reported, and of all others the list price.
    case
        when sum(unlisted_requests) = 0 then trim_scale(sum(list_cost_usd) - (sum(cost_usd) - sum(reported_cost_usd)))
    end as listed_usd
from analytics.usage_daily
where usage_date between %(first_day)s and %(last_day)s
group by provider, model
having sum(reported_requests) > 0
order by reported_usd desc, provider, model;
