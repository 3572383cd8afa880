-- Tokens with their totals, from one id on; never their prefix or hash. Those of other systems have no name.
select token_id, name, quota, usage_count, last_used_at, created_at, expires_at, revoked_at
from usage.api_access_tokens
where (%(token_id)s::text is null or token_id = %(token_id)s)
and (%(after_token_id)s::text is null or token_id > %(after_token_id)s)
order by token_id
limit %(most)s
