-- Days of {daily} that were stored from rows that are gone: no row is left, or those that came late have less than is stored.
-- Where they have as much, the day was replaced by them before there were marks: a mark would count them twice.
insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept)
select
    {raw_name},
    day.usage_date::timestamp at time zone 'UTC',
    (day.usage_date + 1)::timestamp at time zone 'UTC',
    'found: its daily rows are stored, and its raw rows are gone',
    true
from (select distinct usage_date from {daily}) as day
cross join lateral (
    select exists (select 1 from {raw} as raw where raw.usage_date = day.usage_date) as has_rows
) as source
where not exists (
    select 1
    from ops.archives
    where table_name = {raw_name}
      and restored_at is null
      and deleted_at is null
      and chunk_start = day.usage_date::timestamp at time zone 'UTC'
)
  and case
        when source.has_rows then exists (
            select 1
            from ops.touched_days as touched
            where touched.family = {family}
              and touched.usage_date = day.usage_date
              and touched.rolled_version < touched.version
        )
        and (select sum({count}) from {daily} as daily where daily.usage_date = day.usage_date)
            > (select sum({count}) from {raw} as raw where raw.usage_date = day.usage_date)
        else true
    end;
