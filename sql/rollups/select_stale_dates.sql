-- Past dates of rankings and statistics that were made, and whose source changed since, in order.
select
    touched.table_name,
    touched.date,
    max(touched.touched_at) as touched_at
from ops.touched_dates as touched
join ops.made_dates as made
    on made.table_name = touched.table_name
    and made.date = touched.date
where touched.date < %(today)s
group by touched.table_name, touched.date
order by touched.table_name, touched.date;
