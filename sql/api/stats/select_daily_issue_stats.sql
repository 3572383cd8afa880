-- Issue statistics of a range of days, ascending; days that were not counted yet are not there.
select id, date, created_count, resolved_count, comment_count, created_at
from stats.daily_issue_stats
where date >= %(first)s
and date < %(until)s
order by date
