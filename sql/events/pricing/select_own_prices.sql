-- All rows of a version of own prices, in the order of an export. Prices come as text: JSON numbers would lose decimals.
select
    provider,
    model,
    service_tier,
    nullif(valid_from, '-infinity') as valid_from,
    nullif(valid_until, 'infinity') as valid_until,
    priced_as,
    factor,
    array(
        select array[price.key, price.value]
        from jsonb_each_text(own_prices.prices) as price
        order by price.key
    ) as prices
from analytics.own_prices
where own_version = %(own_version)s
order by provider, model, service_tier, own_prices.valid_from;
