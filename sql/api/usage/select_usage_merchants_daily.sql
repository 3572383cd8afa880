-- Merchants' counters per day of a range of days, from one row on.
select date as usage_date, merchant_id, metric_type, metric_value
from usage.merchant_usage
where date >= %(first)s
and date < %(until)s
and (%(merchant_id)s::text is null or merchant_id = %(merchant_id)s)
and (%(metric_type)s::text is null or metric_type = %(metric_type)s)
and (
    %(after_usage_date)s::date is null
    or (date, merchant_id, metric_type)
    > (%(after_usage_date)s, %(after_merchant_id)s::text, %(after_metric_type)s::text)
)
order by date, merchant_id, metric_type
limit %(most)s
