-- All that is counted and charged, for {table}; the numbers of its rows stay what they were.
alter table {table}
    add column cache_read_tokens bigint not null default 0,
    add column cache_write_tokens bigint not null default 0,
    add column output_reasoning_tokens bigint not null default 0,
    add column input_audio_tokens bigint not null default 0,
    add column output_audio_tokens bigint not null default 0,
    add column input_image_tokens bigint not null default 0,
    add column output_image_tokens bigint not null default 0,
    add column unattributed_tokens bigint not null default 0,
    add column other_units jsonb,
    add column list_cost_usd numeric,
    add column reported_cost_usd numeric,
    add column reported_requests bigint not null default 0,
    add column unlisted_requests bigint not null default 0;
update {table}
set list_cost_usd = cost_usd,
    unlisted_requests = unpriced_requests;
comment on column {table}.input_tokens is 'Tokens of the prompts, cached, audio and image ones among them, as far as the clients said';
comment on column {table}.output_tokens is 'Generated tokens, reasoning, audio and image ones among them, as far as the clients said';
comment on column {table}.cache_read_tokens is 'Of input_tokens, those that providers read from their caches';
comment on column {table}.cache_write_tokens is 'Of input_tokens, those that providers wrote to their caches';
comment on column {table}.output_reasoning_tokens is 'Of output_tokens, thoughts that are not in the answers';
comment on column {table}.input_audio_tokens is 'Of input_tokens, those of audio';
comment on column {table}.output_audio_tokens is 'Of output_tokens, those of audio';
comment on column {table}.input_image_tokens is 'Of input_tokens, those of images';
comment on column {table}.output_image_tokens is 'Of output_tokens, those of images';
comment on column {table}.unattributed_tokens is 'Tokens of total_tokens that clients told neither as input nor as output';
comment on column {table}.other_units is 'Sums of the units that have no column of their own, by their names in the price package; null: none';
comment on column {table}.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column {table}.list_cost_usd is 'US dollars by the price version of the day (analytics.day_prices), over all requests; null when no request could be priced';
comment on column {table}.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column {table}.reported_requests is 'Requests that are in reported_cost_usd';
comment on column {table}.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known; a failed request without output costs 0';
comment on column {table}.unlisted_requests is 'Requests that are not in list_cost_usd';
