-- Keys of rolled-up days whose row in {daily} is not the sum of their rows in {raw}. Days whose raw rows are gone, wholly or into an
-- archive file, are left out; so are days that a batch touched since they were rolled up.
with days as (
    select usage_date
    from ops.touched_days as touched
    where family = %(family)s
      and usage_date between %(first_day)s and %(last_day)s
      and rolled_version >= version
      and exists (select 1 from {raw} as raw where raw.usage_date = touched.usage_date)
      and not ops.is_only_in_file(%(raw_table)s, usage_date::timestamp at time zone 'UTC', (usage_date + 1)::timestamp at time zone 'UTC')
      and not ops.is_dropped(%(raw_table)s, usage_date::timestamp at time zone 'UTC', (usage_date + 1)::timestamp at time zone 'UTC')
),
summed as (
    select usage_date, {keys}, {sums}
    from {raw}
    where usage_date in (select usage_date from days)
    group by usage_date, {keys}
),
totals as (
    select usage_date, {keys}, {counts}
    from {daily}
    where usage_date in (select usage_date from days)
)
select usage_date, {keys}, array[{totals_counts}] as daily, array[{summed_counts}] as summed
from totals
full join summed using (usage_date, {keys})
where array[{totals_counts}] <> array[{summed_counts}]
order by usage_date, {keys}
limit %(most)s;
