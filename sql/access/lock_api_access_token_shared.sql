-- Until the end of its transaction no token of this prefix is revoked: see revoke_api_access_token.sql.
select pg_advisory_xact_lock_shared(hashtext('api_access_tokens'), hashtext(%(token_prefix)s));
