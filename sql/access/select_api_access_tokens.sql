-- All tokens that can authenticate, or once could, oldest first.
select
    token_id, token_prefix, name, scopes, created_at, expires_at, revoked_at, quota, usage_count, last_used_at,
    teams, services, users, sign_in
from usage.api_access_tokens
where token_hash is not null
order by created_at, token_id;
