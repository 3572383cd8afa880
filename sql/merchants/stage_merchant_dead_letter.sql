-- Where the refused merchant counters of a chunk land; emptied at each commit.
create temporary table if not exists staged_merchant_dead_letter (
    source_key bytea,
    reason text,
    raw bytea,
    raw_format text
) on commit delete rows;
