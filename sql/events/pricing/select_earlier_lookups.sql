-- Models and tiers that the newest other version of the package was asked for, and this one was not.
select provider, model, service_tier
from analytics.model_lookups
where price_version = (
    select price_version
    from analytics.price_versions
    where source = 'genai-prices'
      and price_version <> %(price_version)s
    order by added_at desc
    limit 1
)
except
select provider, model, service_tier
from analytics.model_lookups
where price_version = %(price_version)s
order by provider, model, service_tier;
