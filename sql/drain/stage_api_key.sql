-- Where a batch of API key deltas lands before it is stored; emptied at each commit.
create temporary table if not exists staged_api_key (
    api_key_id text,
    total_requests bigint,
    successful_requests bigint,
    failed_requests bigint,
    total_file_size bigint,
    total_files_uploaded bigint,
    last_used_us bigint,
    extra jsonb,
    last_used_at timestamptz generated always as (to_timestamp(last_used_us::float8 / 1000000)) stored
) on commit delete rows;
