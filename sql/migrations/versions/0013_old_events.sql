-- Stored events that would have another hash now: an empty text, or no total although one count is given. What the hash is made of.
select
    event_id,
    registry.payload_hash,
    user_id,
    team,
    service,
    provider,
    model,
    input_tokens,
    output_tokens,
    total_tokens,
    latency_ms,
    status_code,
    error_type,
    prompt,
    extra::text
from analytics.usage_events
join analytics.usage_event_ids as registry using (event_id)
where error_type = ''
   or prompt = ''
   or (total_tokens = 0 and coalesce(input_tokens, 0) + coalesce(output_tokens, 0) > 0);
