-- The price version of each of some days, and the version of own prices in it; null: it has none of these.
select day_prices.usage_date, day_prices.price_version, versions.own_version
from analytics.day_prices
join analytics.price_versions as versions using (price_version)
where day_prices.usage_date = any(%(days)s)
order by day_prices.usage_date;
