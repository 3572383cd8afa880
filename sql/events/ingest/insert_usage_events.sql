-- Stores each staged event whose id is new, the first of equal ids, and notes the windows that it touches.
-- In id order, so that two batches with overlapping ids wait for each other and never deadlock.
with first_of_its_id as (
    select distinct on (event_id)
        event_id,
        event_time,
        payload_hash,
        position
    from staged_usage_event
    order by event_id, position
),
registered as (
    insert into analytics.usage_event_ids (event_id, event_time, payload_hash, binding_id)
    select event_id, event_time, payload_hash, %(binding_id)s::uuid
    from first_of_its_id
    order by event_id
    on conflict (event_id) do nothing
    returning event_id
),
stored as (
    select first_of_its_id.position
    from registered
    join first_of_its_id on first_of_its_id.event_id = registered.event_id
),
inserted as (
    insert into analytics.usage_events (
        event_id, event_time, user_id, team, service, provider, model, input_tokens, output_tokens, total_tokens,
        latency_ms, status_code, error_type, prompt, extra,
        cache_read_tokens, cache_write_tokens, output_reasoning_tokens, input_audio_tokens, output_audio_tokens,
        input_image_tokens, output_image_tokens, unattributed_tokens, other_units, service_tier, cost_usd, api_key_id, tags, source,
        external_id
    )
    select
        event_id, event_time, user_id, team, service, provider, model, input_tokens, output_tokens, total_tokens,
        latency_ms, status_code, error_type, prompt, extra,
        cache_read_tokens, cache_write_tokens, output_reasoning_tokens, input_audio_tokens, output_audio_tokens,
        input_image_tokens, output_image_tokens, unattributed_tokens, other_units, service_tier, cost_usd, api_key_id, tags, source,
        external_id
    from staged_usage_event
    join stored on stored.position = staged_usage_event.position
    order by event_time
    returning event_time
),
hours as (
    select distinct date_trunc('hour', event_time, %(timezone)s) as hour
    from inserted
),
touched as (
    insert into ops.touched_windows (grain, window_start)
    select 'hour', hour from hours
    union all
    select distinct 'day', date_trunc('day', hour, %(timezone)s) from hours
)
select coalesce(array_agg(position), '{}')
from stored;
