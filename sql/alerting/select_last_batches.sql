-- When each family last had a batch stored; an index on (family, applied_at) answers it.
select
    families.family,
    (
        select max(batches.applied_at)
        from ops.sync_batches as batches
        where batches.family = families.family
    ) as last_stored_at
from unnest(%(families)s::text[]) as families (family)
order by families.family;
