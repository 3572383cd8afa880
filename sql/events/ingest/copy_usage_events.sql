-- Events whose ids were just registered; the columns after the time are those of stage_usage_event.sql.
copy analytics.usage_events (
    event_id, event_time, user_id, team, service, provider, model, input_tokens, output_tokens, total_tokens,
    latency_ms, status_code, error_type, prompt, extra
) from stdin;
