-- Usage events with all that is priced: units, tier, what the sender was charged. Contracts §8.1 and §8.2.

-- Without checks: TimescaleDB adds no column with one to a table that is compressed. Ingest checks them.
alter table analytics.usage_events
    add column cache_read_tokens bigint,
    add column cache_write_tokens bigint,
    add column output_reasoning_tokens bigint,
    add column input_audio_tokens bigint,
    add column output_audio_tokens bigint,
    add column input_image_tokens bigint,
    add column output_image_tokens bigint,
    add column unattributed_tokens bigint,
    add column other_units jsonb,
    add column service_tier text,
    add column cost_usd numeric,
    add column api_key_id text,
    add column tags jsonb,
    add column source text,
    add column external_id text;
comment on column analytics.usage_events.input_tokens is 'Tokens of the prompt, cached, audio and image ones among them; null when the client did not say';
comment on column analytics.usage_events.output_tokens is 'Generated tokens, reasoning, audio and image ones among them; null when the client did not say';
comment on column analytics.usage_events.cache_read_tokens is 'Of the input tokens, those that the provider read from its cache; null: none, or the client did not say';
comment on column analytics.usage_events.cache_write_tokens is 'Of the input tokens, those that the provider wrote to its cache; null: none, or the client did not say';
comment on column analytics.usage_events.output_reasoning_tokens is 'Of the output tokens, thoughts that are not in the answer; null: none, or the client did not say';
comment on column analytics.usage_events.input_audio_tokens is 'Of the input tokens, those of audio; null: none, or the client did not say';
comment on column analytics.usage_events.output_audio_tokens is 'Of the output tokens, those of audio; null: none, or the client did not say';
comment on column analytics.usage_events.input_image_tokens is 'Of the input tokens, those of images; null: none, or the client did not say';
comment on column analytics.usage_events.output_image_tokens is 'Of the output tokens, those of images; null: none, or the client did not say';
comment on column analytics.usage_events.unattributed_tokens is 'Tokens of total_tokens that are neither input nor output; null: none';
comment on column analytics.usage_events.other_units is 'Counts of units that have no column of their own, by their names in the price package; null as a count: it cannot be known from what the client said';
comment on column analytics.usage_events.service_tier is 'Tier of the service that the request was made in, such as batch; null: the usual one';
comment on column analytics.usage_events.cost_usd is 'US dollars that the sender was charged; null when the client did not say';
comment on column analytics.usage_events.api_key_id is 'API key that made the request, as in usage.api_keys; null when the client did not say';
comment on column analytics.usage_events.tags is 'Names and values that the client gave to group by; null: none';
comment on column analytics.usage_events.source is 'Who gives the ids, as the client said; with an external_id always set';
comment on column analytics.usage_events.external_id is 'Id that the client gave, where it is no UUID: event_id is made from source and this one';

-- A price is what one more of a count adds: cached tokens are among the input tokens already, so theirs is the difference. So the
-- cost of a request is the sum over its counts, and rows that are here already mean the same.
alter table analytics.model_prices
    add column service_tier text not null default '',
    add column cache_read_usd numeric not null default 0,
    add column cache_write_usd numeric not null default 0,
    add column output_reasoning_usd numeric not null default 0,
    add column input_audio_usd numeric not null default 0,
    add column output_audio_usd numeric not null default 0,
    add column input_image_usd numeric not null default 0,
    add column output_image_usd numeric not null default 0,
    add column other_usd jsonb not null default '{}',
    add column any_of text[],
    add column least_audio_seconds numeric not null default 0 check (least_audio_seconds >= 0),
    add column explained jsonb not null default '{}',
    drop constraint model_prices_price_version_provider_model_valid_from_daily__key,
    drop constraint model_prices_input_usd_check,
    drop constraint model_prices_output_usd_check,
    drop constraint model_prices_request_usd_check,
    add unique (price_version, provider, model, service_tier, valid_from, daily_from, input_tokens_from);
comment on column analytics.model_prices.service_tier is 'Tier of the service, as events name it; empty: requests without one';
comment on column analytics.model_prices.input_usd is 'US dollars per million input tokens, of whatever kind';
comment on column analytics.model_prices.output_usd is 'US dollars per million output tokens, of whatever kind';
comment on column analytics.model_prices.cache_read_usd is 'US dollars per million cache_read_tokens beyond input_usd; below 0 where they cost less';
comment on column analytics.model_prices.cache_write_usd is 'US dollars per million cache_write_tokens beyond input_usd';
comment on column analytics.model_prices.output_reasoning_usd is 'US dollars per million output_reasoning_tokens beyond output_usd';
comment on column analytics.model_prices.input_audio_usd is 'US dollars per million input_audio_tokens beyond input_usd';
comment on column analytics.model_prices.output_audio_usd is 'US dollars per million output_audio_tokens beyond output_usd';
comment on column analytics.model_prices.input_image_usd is 'US dollars per million input_image_tokens beyond input_usd';
comment on column analytics.model_prices.output_image_usd is 'US dollars per million output_image_tokens beyond output_usd';
comment on column analytics.model_prices.other_usd is 'By unit, for all that the model has a price of beyond input and output: US dollars that one more of it adds; those of units with a column repeat it';
comment on column analytics.model_prices.any_of is 'Units of which a request must have one to be priced; null: it is priced by its tokens, or costs the same whatever it has';
comment on column analytics.model_prices.least_audio_seconds is 'Seconds of audio that are charged at least, where there are any';
comment on column analytics.model_prices.explained is 'For people: by unit, the price as its source has it, and which layer it is from';

alter table analytics.model_lookups add column service_tier text not null default '';
alter table analytics.model_lookups
    drop constraint model_lookups_pkey,
    add primary key (price_version, provider, model, service_tier);
comment on column analytics.model_lookups.service_tier is 'Tier of the service, as events name it; empty: requests without one';
