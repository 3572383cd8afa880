-- The prefix of the token that is named by its id or by its prefix.
select token_prefix
from usage.api_access_tokens
where token_hash is not null
and %(name)s in (token_id, token_prefix);
