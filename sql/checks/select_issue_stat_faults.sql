-- Stored days of issue statistics that are not what the issues and comments count, unless they wait to be made again. A day before
-- the history of resolutions may have more of them: some issues were opened again since.
with
{counted}
select
    source.date,
    stored.created_count,
    stored.resolved_count,
    stored.comment_count,
    source.created_count as expected_created,
    source.resolved_count as expected_resolved,
    source.comment_count as expected_comments
from source
join stats.daily_issue_stats as stored using (date)
cross join ops.calendar
where (
    (stored.created_count, stored.comment_count) <> (source.created_count, source.comment_count)
    or stored.resolved_count < source.resolved_count
    or (
        stored.resolved_count > source.resolved_count
        and (%(ends)s::timestamptz[])[source.position] > calendar.resolutions_noted_since
    )
  )
  and not exists (
    select 1
    from ops.touched_dates as touched
    where touched.table_name = 'stats.daily_issue_stats'
      and touched.date = source.date
  )
order by source.date
limit %(most)s;
