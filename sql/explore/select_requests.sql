-- Single requests between two moments, newest first, after a place. Those of one moment are in the order of their digests: what comes
-- between two pages moves none of them, and the order tells nothing of their ids, which a bound sender must not know.
with oldest as materialized (
    -- How far back a page goes: few columns are sorted, and digests are made of the requests of few moments alone.
    select event_time
    from analytics.usage_events
    where event_time >= %(first)s
      and event_time < %(until)s
      and (
        event_time < %(newest)s
        or event_time = %(newest)s
        and substring(sha256(%(digest_key)s::bytea || uuid_send(event_id)) for 16) > %(after)s::bytea
    ){kept_to}
    order by event_time desc
    limit %(most)s
)
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
    tags,
    digest
from analytics.usage_events
cross join lateral (select substring(sha256(%(digest_key)s::bytea || uuid_send(event_id)) for 16) as digest) as made
where event_time >= %(first)s
  and event_time < %(until)s
  and event_time >= (select min(event_time) from oldest)
  and (event_time < %(newest)s or event_time = %(newest)s and digest > %(after)s::bytea){kept_to}
order by event_time desc, digest
limit %(most)s
