-- Prefixes of the tokens that were revoked in the last so many seconds.
select token_prefix
from usage.api_access_tokens
where revoked_at > now() - make_interval(secs => %(seconds)s)
and token_prefix is not null;
