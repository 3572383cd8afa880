-- Past dates of a table of statistics or rankings that were made, and whose source changed before a time, without being made since.
select touched.date, min(touched.touched_at) as touched_at
from ops.touched_dates as touched
join ops.made_dates as made
    on made.table_name = touched.table_name
    and made.date = touched.date
where touched.table_name = %(table_name)s
  and touched.date < %(today)s
  and touched.date >= %(first)s
  and touched.touched_at < %(before)s
group by touched.date
order by touched.date
limit %(most)s;
