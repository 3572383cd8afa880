-- Merchants and their metrics, summed over all days, from one pair on.
select merchant_id, metric_type, analytics.capped(sum(metric_value)) as metric_value, min(date) as first_date, max(date) as last_date
from usage.merchant_usage
where (%(merchant_id)s::text is null or merchant_id = %(merchant_id)s)
and (%(metric_type)s::text is null or metric_type = %(metric_type)s)
and (
    %(after_merchant_id)s::text is null
    or (merchant_id, metric_type) > (%(after_merchant_id)s, %(after_metric_type)s::text)
)
group by merchant_id, metric_type
order by merchant_id, metric_type
limit %(most)s
