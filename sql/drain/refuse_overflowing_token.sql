-- Takes out staged rows of tokens whose total would go over bigint; runs only after an upsert has failed on it.
delete from staged_token as s
using (
    select staged.token_id
    from staged_token as staged
    left join usage.api_access_tokens as t on t.token_id = staged.token_id
    group by staged.token_id, t.usage_count
    having coalesce(t.usage_count, 0) + sum(staged.usage_count) > 9223372036854775807
) as overflowing
where s.token_id = overflowing.token_id
returning 'token_usage:' || s.token_id || ':' || s.instance_id;
