-- Notes what a model of our events was found as in the package of prices.
insert into analytics.model_lookups (price_version, provider, model, service_tier, priced_as)
values (%(price_version)s, %(provider)s, %(model)s, %(service_tier)s, %(priced_as)s)
on conflict (price_version, provider, model, service_tier) do nothing;
