-- Days without any usage of a family between days that have some, up to yesterday: its writers or its drain stood still.
with used as (
    select usage_date
    from ops.touched_days
    where family = %(family)s
      and usage_date between %(first_day)s and %(last_day)s
)
select day::date
from generate_series((select min(usage_date) from used)::timestamp, least(%(last_day)s::date, %(today)s::date - 1)::timestamp, interval '1 day') as day
where day::date not in (select usage_date from used)
order by day;
