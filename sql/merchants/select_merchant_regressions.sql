-- Open regressions, of all counters or those that the filters leave.
select regression_id, merchant_id, date, metric_type, stored_value, counter_value, detected_at, last_seen_at
from ops.counter_regressions
where accepted_at is null
  and (%(merchant_id)s::text is null or merchant_id = %(merchant_id)s)
  and (%(day)s::date is null or date = %(day)s)
  and (%(metric_type)s::text is null or metric_type = %(metric_type)s)
order by merchant_id, date, metric_type
limit %(at_most)s;
