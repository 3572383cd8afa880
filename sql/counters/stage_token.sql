-- Where a batch of token deltas lands before it is stored; emptied at each commit.
create temporary table if not exists staged_token (
    token_id text,
    instance_id text,
    usage_count bigint,
    last_used_at timestamptz,
    extra jsonb
) on commit delete rows;
