-- Adds the staged batch to the running totals, summed over instances, in key order so that two drainers cannot deadlock.
insert into usage.api_access_tokens as t (token_id, usage_count, last_used_at)
select
    token_id,
    sum(usage_count)::bigint,
    max(last_used_at)
from staged_token
group by token_id
order by token_id
on conflict (token_id) do update
set usage_count = t.usage_count + excluded.usage_count,
    last_used_at = greatest(t.last_used_at, excluded.last_used_at),
    updated_at = now();
