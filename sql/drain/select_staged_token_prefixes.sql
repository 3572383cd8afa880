-- Prefixes under which the staged tokens may be cached (contracts §1.7).
select token_prefix
from usage.api_access_tokens
where token_id in (select token_id from staged_token)
  and token_prefix is not null;
