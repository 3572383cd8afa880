-- Keys of {totals} whose counts are not what their days add up to. A day that is rolled up is read from {daily}, which outlives
-- raw; of any other day the raw rows count, beside the daily rows where the rest of raw is only in an archive file.
with not_rolled as (
    select
        usage_date,
        exists (
            select 1
            from ops.archives
            where table_name = %(raw_table)s
              and chunk_start = touched.usage_date::timestamp at time zone 'UTC'
              and restored_at is null
        ) as is_archived
    from ops.touched_days as touched
    where family = %(family)s
      and rolled_version < version
),
parts as (
    select {keys}, {counts}
    from {daily}
    where usage_date not in (select usage_date from not_rolled where not is_archived)
    union all
    select {keys}, {counts}
    from {raw}
    where usage_date in (select usage_date from not_rolled)
),
summed as (
    select {keys}, {sums}
    from parts
    group by {keys}
)
select {keys}, array[{totals_counts}] as totals, array[{summed_counts}] as summed
from {totals} as totals
full join summed using ({keys})
where array[{totals_counts}] <> array[{summed_counts}]
order by {keys}
limit %(most)s;
