-- The staged batch into raw, each row on its day.
insert into raw.token_deltas (
    usage_date, batch_id, source_key, token_id, instance_id, usage_count, last_used_at, extra
)
select
    usage.day_of(last_used_at, %(claimed_at)s, %(timezone)s),
    %(batch_id)s,
    'token_usage:' || token_id || ':' || instance_id,
    token_id,
    instance_id,
    usage_count,
    last_used_at,
    extra
from staged_token;
