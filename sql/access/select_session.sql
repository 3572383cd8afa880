-- The token that a session stands for, valid or not. The session ends when either does.
select
    token.token_id, token.token_prefix, token.token_hash, coalesce(token.name, ''), token.scopes,
    least(token.expires_at, session.expires_at), token.revoked_at, token.quota,
    token.binding_id, token.teams, token.services, token.users
from usage.sessions as session
join usage.api_access_tokens as token on token.token_id = session.token_id
where session.session_hash = %(session_hash)s;
