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
    last_used_at timestamptz,
    extra jsonb
) on commit delete rows;
