-- What one window of {table} costs, exactly, and how many of its requests have no price.
select
    trim_scale(sum(cost_usd)),
    coalesce(sum(unpriced_requests), 0)::bigint
from {table}
where {window} = %(window)s;
