-- Ends a token; one that was revoked before keeps its time.
update usage.api_access_tokens
set revoked_at = coalesce(revoked_at, now()),
    updated_at = now()
where token_prefix = %(token_prefix)s
returning token_id, revoked_at;
