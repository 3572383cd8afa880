-- The token that a prefix names, revoked or not.
select token_id, token_prefix, token_hash, coalesce(name, ''), scopes, expires_at, revoked_at, quota, binding_id, teams, services, users
from usage.api_access_tokens
where token_prefix = %(token_prefix)s;
