-- Tokens that are bound to the user.
select token_prefix
from usage.api_access_tokens
where %(user_id)s = any(users)
order by token_prefix;
