-- Where a page of request events lands before it is stored; emptied at each commit.
create temporary table if not exists staged_event (
    position integer,
    payload_hash bytea,
    event_id uuid,
    api_key_id text,
    user_id text,
    provider text,
    event_type text,
    file_size bigint,
    status text,
    last_used_us bigint,
    extra jsonb,
    last_used_at timestamptz generated always as (to_timestamp(last_used_us::float8 / 1000000)) stored
) on commit delete rows;
