-- Single requests between two moments, newest first, from one request on.
select
    event_time,
    event_id,
    external_id,
    source,
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
    trim_scale(cost_usd) as cost_usd,
    tags
from analytics.usage_events as event
where event_time >= %(first)s
  and event_time < %(until)s
  and (%(after_time)s::timestamptz is null or (event_time, event_id) < (%(after_time)s, %(after_id)s::uuid)){kept_to}
order by event_time desc, event_id desc
limit %(most)s
