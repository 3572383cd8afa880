-- Models with requests without a price on these days, and whether their price versions know them at all; most requests first.
select
    provider,
    model,
    sum(unpriced_requests)::bigint as requests,
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
  and unpriced_requests > 0
group by provider, model
order by requests desc, provider, model;
