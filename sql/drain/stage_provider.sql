-- Where a batch of provider deltas lands before it is stored; emptied at each commit.
create temporary table if not exists staged_provider (
    api_key_id text,
    provider text,
    user_id text,
    upload_count bigint,
    total_file_size bigint,
    last_used_us bigint,
    extra jsonb,
    last_used_at timestamptz generated always as (to_timestamp(last_used_us::float8 / 1000000)) stored
) on commit delete rows;
