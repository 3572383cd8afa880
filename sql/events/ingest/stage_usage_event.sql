-- Where a batch of usage events lands before it is stored; emptied at each commit.
create temporary table if not exists staged_usage_event (
    position integer,
    event_id uuid,
    payload_hash bytea,
    event_time timestamptz,
    user_id text,
    team text,
    service text,
    provider text,
    model text,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    latency_ms integer,
    status_code integer,
    error_type text,
    prompt text,
    extra jsonb
) on commit delete rows;
