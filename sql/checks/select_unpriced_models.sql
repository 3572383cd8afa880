-- Models with requests without a list price on these days, how many of them have a reported cost, and whether their price versions
-- know the model at all; most requests first.
select
    provider,
    model,
    sum(unlisted_requests)::bigint as requests,
    sum(unlisted_requests - unpriced_requests)::bigint as reported,
    bool_or(exists (
        select 1
        from analytics.model_prices as price
        where price.price_version = day_prices.price_version
          and price.provider = usage_daily.provider
          and price.model = usage_daily.model
    )) as is_known
from analytics.usage_daily
left join analytics.day_prices using (usage_date)
where usage_date between %(first_day)s and %(last_day)s
  and unlisted_requests > 0
group by provider, model
order by requests desc, provider, model;
