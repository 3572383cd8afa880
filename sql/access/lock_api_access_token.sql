-- Waits for those who are about to cache the token of this prefix; they read it anew afterwards.
select pg_advisory_xact_lock(hashtext('api_access_tokens'), hashtext(%(token_prefix)s));
