-- Keys of {totals} whose counts are not what their days add up to. A day that is rolled up is read from {daily}, which outlives
-- raw; of any other day the raw rows count, beside the daily rows where the rest of raw is only in an archive file or was dropped.
with not_rolled as (
    select
        usage_date,
        ops.is_only_in_file(%(raw_table)s, usage_date::timestamp at time zone 'UTC', (usage_date + 1)::timestamp at time zone 'UTC')
            or ops.is_dropped(%(raw_table)s, usage_date::timestamp at time zone 'UTC', (usage_date + 1)::timestamp at time zone 'UTC') as is_elsewhere
    from ops.touched_days as touched
    where family = %(family)s
      and rolled_version < version
),
parts as (
    select {keys}, {counts}
    from {daily}
    where usage_date not in (select usage_date from not_rolled where not is_elsewhere)
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
