-- Models and tiers of the events of an hour or day that a price version of the package was not asked for yet.
select
    event.provider,
    event.model,
    coalesce(event.service_tier, '') as service_tier
from analytics.usage_events as event
where event.event_time >= %(first)s
  and event.event_time < %(until)s
group by event.provider, event.model, coalesce(event.service_tier, '')
except
select provider, model, service_tier
from analytics.model_lookups
where price_version = %(price_version)s
order by provider, model, service_tier;
