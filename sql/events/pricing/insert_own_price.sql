-- A row of a version of own prices; no bound is an infinite one.
insert into analytics.own_prices (
    own_version, provider, model, service_tier, valid_from, valid_until, priced_as, factor, prices
)
values (
    %(own_version)s,
    %(provider)s,
    %(model)s,
    %(service_tier)s,
    coalesce(%(valid_from)s, '-infinity'::timestamptz),
    coalesce(%(valid_until)s, 'infinity'::timestamptz),
    %(priced_as)s,
    %(factor)s,
    %(prices)s::jsonb
);
