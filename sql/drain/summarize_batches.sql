-- What was drained per family in a span of time, whoever drained it: the sensor reports it as materializations.
-- The families are named for the index on (family, applied_at): before PostgreSQL 18 the times alone read the whole ledger.
select
    batches.family,
    count(*) as batches,
    sum(batches.keys) as keys,
    sum(batches.stored_rows) as stored_rows,
    sum(batches.dead_letters) as dead_letters,
    sum(batches.duplicates) as duplicates,
    count(*) filter (where batches.is_uncertain) as uncertain_batches,
    max(extract(epoch from batches.applied_at - batches.claimed_at))::float as longest_lag_seconds,
    array(
        select distinct day
        from ops.sync_batches as same
        cross join unnest(same.usage_dates) as day
        where same.family = batches.family
          and same.applied_at > %(since)s
          and same.applied_at <= %(until)s
        order by day
    ) as usage_dates
from ops.sync_batches as batches
where batches.family = any(%(families)s::text[])
  and batches.applied_at > %(since)s
  and batches.applied_at <= %(until)s
group by batches.family
order by batches.family;
