-- Odometers that fell since some moment, by family: Redis went back, or lost what it had.
select
    family,
    sum(forgotten) as forgotten,
    count(*) as days,
    min(usage_date) as first_day,
    max(usage_date) as last_day,
    max(fallen_at) as fallen_at
from ops.odometers
where fallen_at >= %(since)s
group by family
order by family;
