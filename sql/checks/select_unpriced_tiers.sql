-- Tiers of models of these days for which the prices of the day have none of their own: requests in them cost as usual.
select distinct price.provider, price.model, price.service_tier
from analytics.usage_daily
join analytics.day_prices using (usage_date)
join analytics.model_prices as price
    on price.price_version = day_prices.price_version
    and price.provider = usage_daily.provider
    and price.model = usage_daily.model
where usage_daily.usage_date between %(first_day)s and %(last_day)s
  and price.explained ? 'service_tier'
order by price.provider, price.model, price.service_tier;
