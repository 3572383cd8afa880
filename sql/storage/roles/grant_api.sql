-- What the HTTP service may do: read what it serves, and add what it is sent. It reads no raw bytes, prompts only for a token that
-- may see them, and deletes nothing. What a new route needs belongs here.
grant usage on schema app, raw, usage, analytics, stats, ops to usage_api;
grant select on
    usage.api_access_tokens,
    usage.api_keys,
    usage.api_key_daily,
    usage.provider_usage,
    usage.provider_daily,
    usage.sessions,
    usage.token_daily,
    usage.merchant_usage,
    analytics.usage_api_key_daily,
    analytics.usage_daily,
    analytics.usage_error_daily,
    analytics.usage_hourly,
    analytics.usage_latency_daily,
    analytics.usage_latency_dimension_daily,
    analytics.usage_tag_daily,
    analytics.usage_user_daily,
    analytics.usage_user_team_daily,
    ops.budgets,
    ops.calendar,
    ops.heartbeats,
    ops.made_dates,
    ops.sync_batches
to usage_api;
grant select on all tables in schema stats to usage_api;
-- For the metrics of drains.
grant select (usage_date, instance_id, usage_count) on raw.token_deltas to usage_api;
grant select (family, replayed_at, discarded_at) on ops.dead_letters to usage_api;
-- For the ingest. The registries tell what came before; the rows themselves are only written.
grant select, insert on
    analytics.usage_event_ids,
    analytics.message_archive_ids,
    ops.ingest_batches,
    ops.service_keys
to usage_api;
grant insert on
    analytics.usage_events,
    analytics.message_archives,
    ops.touched_windows
to usage_api;
-- Single requests, without their prompts and what else was sent.
grant select (
    event_id,
    external_id,
    source,
    event_time,
    user_id,
    team,
    service,
    provider,
    model,
    api_key_id,
    service_tier,
    input_tokens,
    output_tokens,
    total_tokens,
    cache_read_tokens,
    cache_write_tokens,
    output_reasoning_tokens,
    input_audio_tokens,
    output_audio_tokens,
    input_image_tokens,
    output_image_tokens,
    latency_ms,
    status_code,
    error_type,
    cost_usd,
    tags
) on analytics.usage_events to usage_api;
grant execute on function ops.request_costs to usage_api;
grant execute on function ops.request_prompts to usage_api;
grant execute on function analytics.list_prices to usage_api;
-- Which days single requests are no longer found of.
grant select (table_name, chunk_start, chunk_end, restored_at, deleted_at) on ops.archives to usage_api;
grant select (table_name, span_start, span_end, returned_at) on ops.dropped_spans to usage_api;
-- As of when an answer is: what was stored since, and is not rolled up.
grant select (grain, window_start, touched_at) on ops.touched_windows to usage_api;
grant select (event_id, payload_hash) on analytics.superseded_events to usage_api;
-- The same post again changes the row that is there.
grant select, insert, update on app.external_posts to usage_api;
-- So does the same conflict. It decides about none.
revoke select, update on ops.event_conflicts from usage_api;
grant insert on ops.event_conflicts to usage_api;
grant select (kind, event_id, other_hash, times), update (times, last_seen_at) on ops.event_conflicts to usage_api;
-- The only way to change or take out an event. It leaves a note, which this role cannot change.
grant execute on function ops.correct_event to usage_api;
-- The same for who is bound, and whether an id is taken by somebody else's event.
grant execute on function ops.correct_bound_event to usage_api;
grant execute on function ops.is_foreign to usage_api;
grant execute on function ops.create_partition to usage_api;
-- The only ways to a session, and out of it. It makes no token, and reads no invitation.
grant execute on function ops.accept_invitation to usage_api;
grant execute on function ops.open_session to usage_api;
grant execute on function ops.close_session to usage_api;
