-- API tokens that end within two weeks, or within the last quarter of a shorter life, the next first. Revoked ones need nobody,
-- a token of a few hours was meant to end, and a person is let in for as long as was said.
select
    token_prefix,
    name,
    expires_at,
    usage_count > 0 and last_used_at > %(now)s - interval '14 days' as is_used
from usage.api_access_tokens
where
    revoked_at is null
    and token_prefix is not null
    and sign_in is null
    and expires_at > %(now)s
    and expires_at <= %(now)s + least(interval '14 days', (expires_at - created_at) / 4)
    and expires_at >= created_at + interval '2 days'
order by expires_at, token_prefix;
