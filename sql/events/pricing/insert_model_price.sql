-- A price of a version; one that is there stays, since the prices of a version never change.
insert into analytics.model_prices (
    price_version, provider, model, service_tier, valid_from, valid_until, daily_from, daily_until,
    input_tokens_from, input_tokens_until, input_usd, output_usd, request_usd,
    cache_read_usd, cache_write_usd, output_reasoning_usd, input_audio_usd, output_audio_usd, input_image_usd, output_image_usd,
    other_usd, any_of, least_audio_seconds, explained
)
values (
    %(price_version)s,
    %(provider)s,
    %(model)s,
    %(service_tier)s,
    coalesce(%(valid_from)s, '-infinity'::timestamptz),
    coalesce(%(valid_until)s, 'infinity'::timestamptz),
    %(daily_from)s,
    coalesce(%(daily_until)s, '24:00'::time),
    %(input_tokens_from)s,
    %(input_tokens_until)s,
    %(input_usd)s,
    %(output_usd)s,
    %(request_usd)s,
    %(cache_read_usd)s,
    %(cache_write_usd)s,
    %(output_reasoning_usd)s,
    %(input_audio_usd)s,
    %(output_audio_usd)s,
    %(input_image_usd)s,
    %(output_image_usd)s,
    %(other_usd)s::jsonb,
    %(any_of)s::text[],
    %(least_audio_seconds)s,
    %(explained)s::jsonb
)
on conflict (price_version, provider, model, service_tier, valid_from, daily_from, input_tokens_from) do nothing;
