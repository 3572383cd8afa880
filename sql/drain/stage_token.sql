-- Where a batch of token deltas lands before it is stored; emptied at each commit.
create temporary table if not exists staged_token (
    token_id text,
    instance_id text,
    usage_count bigint,
    last_used_us bigint,
    extra jsonb,
    last_used_at timestamptz generated always as (to_timestamp(last_used_us::float8 / 1000000)) stored
) on commit delete rows;
