-- The same for a batch of which an event has one of the columns after extra.
copy analytics.usage_events (
    event_id, event_time, user_id, team, service, provider, model, input_tokens, output_tokens, total_tokens,
    latency_ms, status_code, error_type, prompt, extra,
    cache_read_tokens, cache_write_tokens, output_reasoning_tokens, input_audio_tokens, output_audio_tokens,
    input_image_tokens, output_image_tokens, unattributed_tokens, other_units, service_tier, cost_usd, api_key_id, tags, source,
    external_id
) from stdin;
