-- Rows and sums of one window of {table}, to tell by how much a replacement changed it.
select jsonb_build_object(
    'rows', count(*),
    'requests', coalesce(sum(requests), 0),
    'errors', coalesce(sum(errors), 0),
    'total_tokens', coalesce(sum(total_tokens), 0),
    'cost_usd', trim_scale(sum(cost_usd)),
    'unpriced_requests', coalesce(sum(unpriced_requests), 0)
)
from {table}
where {window} = %(window)s;
