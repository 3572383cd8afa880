-- What the columns of units and costs of {view} mean, as in the tables under it.
comment on column {view}.input_tokens is 'Tokens of the prompts, cached, audio and image ones among them, as far as the clients said';
comment on column {view}.output_tokens is 'Generated tokens, reasoning, audio and image ones among them, as far as the clients said';
comment on column {view}.cache_read_tokens is 'Of input_tokens, those that providers read from their caches';
comment on column {view}.cache_write_tokens is 'Of input_tokens, those that providers wrote to their caches';
comment on column {view}.output_reasoning_tokens is 'Of output_tokens, thoughts that are not in the answers';
comment on column {view}.input_audio_tokens is 'Of input_tokens, those of audio';
comment on column {view}.output_audio_tokens is 'Of output_tokens, those of audio';
comment on column {view}.input_image_tokens is 'Of input_tokens, those of images';
comment on column {view}.output_image_tokens is 'Of output_tokens, those of images';
comment on column {view}.unattributed_tokens is 'Tokens of total_tokens that clients told neither as input nor as output';
comment on column {view}.other_units is 'Sums of the units that have no column of their own, by their names in the price package; null: none';
comment on column {view}.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column {view}.list_cost_usd is 'US dollars by the price version of the day (analytics.day_prices), over all requests; null when no request could be priced';
comment on column {view}.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column {view}.reported_requests is 'Requests that are in reported_cost_usd';
comment on column {view}.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known; a failed request without output costs 0';
comment on column {view}.unlisted_requests is 'Requests that are not in list_cost_usd';
