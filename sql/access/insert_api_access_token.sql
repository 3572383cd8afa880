-- A new token; none when its prefix is taken.
insert into usage.api_access_tokens (token_id, token_prefix, token_hash, name, scopes, expires_at, quota)
values (%(token_id)s, %(token_prefix)s, %(token_hash)s, %(name)s, %(scopes)s, %(expires_at)s, %(quota)s)
on conflict (token_prefix) do nothing
returning token_id;
