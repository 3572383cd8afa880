-- Closed days that were touched some time ago and are not rolled up since; those in an archive file wait for a lifecycle run.
select usage_date, touched_at
from ops.touched_days as touched
where family = %(family)s
  and rolled_version < version
  and usage_date < %(today)s
  and touched_at < %(now)s - case
        when ops.is_only_in_file(%(raw_table)s, usage_date::timestamp at time zone 'UTC', (usage_date + 1)::timestamp at time zone 'UTC') then interval '26 hours'
        else interval '2 hours'
    end
order by usage_date
limit %(most)s;
