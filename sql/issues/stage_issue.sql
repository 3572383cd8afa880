-- Where the lines of a file of issues land before they are stored, times in epoch microseconds; emptied at each commit.
create temporary table if not exists staged_issue (
    line bigint,
    number text,
    id text,
    title text,
    status text,
    view_count bigint,
    comments bigint,
    created_us bigint,
    updated_us bigint,
    resolved_us bigint
) on commit delete rows;
