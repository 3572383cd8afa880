-- Where a chunk of merchant counters lands before it is stored or compared; emptied at each commit.
create temporary table if not exists staged_merchant (
    merchant_id text,
    date date,
    metric_type text,
    counter bigint
) on commit delete rows;
