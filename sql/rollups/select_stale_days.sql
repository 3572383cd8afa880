-- Closed days whose raw rows changed after their daily table was last replaced, oldest first; not those whose other rows are in an
-- archive: the lifecycle run reads them back, and after that they are here.
select family, usage_date, version
from ops.touched_days
where version > rolled_version
  and usage_date < %(today)s
  and not exists (
    select 1
    from ops.archives
    where table_name = 'raw.' || family || '_deltas'
      and chunk_start = usage_date::timestamp at time zone 'UTC'
      and restored_at is null
      and deleted_at is null
  )
order by usage_date, family;
