-- Closed days that were touched some time ago and are not rolled up since; those in an archive file wait for a lifecycle run.
select usage_date, touched_at
from ops.touched_days as touched
where family = %(family)s
  and rolled_version < version
  and usage_date < %(today)s
  and touched_at < %(now)s - case
        when exists (
            select 1
            from ops.archives
            where table_name = %(raw_table)s
              and chunk_start = touched.usage_date::timestamp at time zone 'UTC'
              and restored_at is null
        ) then interval '26 hours'
        else interval '2 hours'
    end
order by usage_date
limit %(most)s;
