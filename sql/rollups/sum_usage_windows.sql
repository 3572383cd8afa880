-- Rows and sums of one window of {table}, to tell by how much a replacement changed it.
select jsonb_build_object(
    'rows', count(*),
    'requests', coalesce(sum(requests), 0),
    'errors', coalesce(sum(errors), 0),
    'total_tokens', coalesce(sum(total_tokens), 0),
    'cache_read_tokens', coalesce(sum(cache_read_tokens), 0),
    'cache_write_tokens', coalesce(sum(cache_write_tokens), 0),
    'output_reasoning_tokens', coalesce(sum(output_reasoning_tokens), 0),
    'input_audio_tokens', coalesce(sum(input_audio_tokens), 0),
    'output_audio_tokens', coalesce(sum(output_audio_tokens), 0),
    'input_image_tokens', coalesce(sum(input_image_tokens), 0),
    'output_image_tokens', coalesce(sum(output_image_tokens), 0),
    'unattributed_tokens', coalesce(sum(unattributed_tokens), 0),
    'cost_usd', trim_scale(sum(cost_usd)),
    'list_cost_usd', trim_scale(sum(list_cost_usd)),
    'reported_cost_usd', trim_scale(sum(reported_cost_usd)),
    'reported_requests', coalesce(sum(reported_requests), 0),
    'unpriced_requests', coalesce(sum(unpriced_requests), 0),
    'unlisted_requests', coalesce(sum(unlisted_requests), 0)
)
from {table}
where {window} = %(window)s;
