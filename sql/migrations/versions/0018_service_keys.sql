-- A key that only the service has: it signs cached copies of tokens in Redis, so that nobody else can make one.

create table ops.service_keys (
  name text primary key,
  key bytea not null check (octet_length(key) >= 32),
  created_at timestamptz not null default now()
);
comment on table ops.service_keys is 'Secret keys that the HTTP service makes at its first start. To change one, delete its row and restart the service';
comment on column ops.service_keys.name is 'What the key is for: session signs sessions and cached copies of tokens';
comment on column ops.service_keys.key is 'The key itself: 32 random bytes. Whoever reads it can make tokens that the service believes';
comment on column ops.service_keys.created_at is 'When the key was made';

-- The service asks once a second which tokens were revoked lately.
create index if not exists api_access_tokens_revoked_at_idx on usage.api_access_tokens (revoked_at) where revoked_at is not null;
