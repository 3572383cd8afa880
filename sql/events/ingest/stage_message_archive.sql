-- Where a batch of message archives lands before it is stored; emptied at each commit.
create temporary table if not exists staged_message_archive (
    position integer,
    event_id uuid,
    payload_hash bytea,
    user_id text,
    service text,
    prompt_full text,
    response_full text
) on commit delete rows;
