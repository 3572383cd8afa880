-- Prefixes under which the staged tokens may be cached (contracts §1.7).
select token_prefix
from usage.api_access_tokens
where token_id = any(%(token_ids)s)
  and token_prefix is not null;
