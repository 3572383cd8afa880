-- The token of whom a proxy names; the index lets one of a name be there that is not revoked.
select token_id, token_prefix, token_hash, coalesce(name, ''), scopes, expires_at, revoked_at, quota, binding_id, teams, services, users
from usage.api_access_tokens
where name = %(name)s
and sign_in = 'proxy'
and revoked_at is null;
