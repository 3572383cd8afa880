-- Single requests between two moments, newest first, after so many of the last moment.
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
  and event_time <= %(newest)s{kept_to}
-- Of one moment by what is shown of them, since a bound sender's ids may be others than were sent.
order by
    event_time desc,
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
    cost_usd,
    tags,
    event_id
limit %(most)s
offset %(shown)s
