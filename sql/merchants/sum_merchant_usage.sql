-- What is stored of a day, per metric.
select
    metric_type,
    count(*) as merchants,
    sum(metric_value) as total,
    max(updated_at) as updated_at
from usage.merchant_usage
where date = %(day)s
group by metric_type
order by metric_type;
