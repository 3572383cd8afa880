-- Per family of the ledger the age of its last batch, and what the last seconds brought; an index on (family, applied_at) serves both.
select
    families.family,
    extract(epoch from clock_timestamp() - (
        select max(batches.applied_at)
        from ops.sync_batches as batches
        where batches.family = families.family
    ))::float as last_batch_age_seconds,
    recent.batches,
    recent.keys,
    recent.longest_lag_seconds
from unnest(%(families)s::text[]) as families (family)
cross join lateral (
    select
        count(*) as batches,
        coalesce(sum(batches.keys), 0)::bigint as keys,
        coalesce(max(extract(epoch from batches.applied_at - batches.claimed_at)), 0)::float as longest_lag_seconds
    from ops.sync_batches as batches
    where batches.family = families.family
      and batches.applied_at > clock_timestamp() - make_interval(secs => %(seconds)s)
) as recent
order by families.family;
