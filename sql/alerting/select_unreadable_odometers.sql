-- Odometers whose value in Redis is no count, by family, with the newest of them.
select
    family,
    count(*) as days,
    max(usage_date) as newest_day,
    (array_agg(problem order by usage_date desc))[1] as problem
from ops.odometers
where problem is not null
  and usage_date >= %(first_day)s
group by family
order by family;
