-- Issues created and resolved on the days up to one, oldest first.
select
    date,
    created_count::float8,
    resolved_count::float8
from stats.daily_issue_stats
where date > %(after)s
  and date <= %(last)s
order by date;
