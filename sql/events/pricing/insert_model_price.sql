-- A price of a version; one that is there stays, since the prices of a version never change.
insert into analytics.model_prices (
    price_version, provider, model, valid_from, valid_until, daily_from, daily_until,
    input_tokens_from, input_tokens_until, input_usd, output_usd, request_usd
)
values (
    %(price_version)s,
    %(provider)s,
    %(model)s,
    coalesce(%(valid_from)s, '-infinity'::timestamptz),
    coalesce(%(valid_until)s, 'infinity'::timestamptz),
    %(daily_from)s,
    coalesce(%(daily_until)s, '24:00'::time),
    %(input_tokens_from)s,
    %(input_tokens_until)s,
    %(input_usd)s,
    %(output_usd)s,
    %(request_usd)s
)
on conflict (price_version, provider, model, service_tier, valid_from, daily_from, input_tokens_from) do nothing;
