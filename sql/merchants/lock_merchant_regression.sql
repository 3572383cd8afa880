-- An open regression and the row that it is about, held until the transaction ends; no row when another has settled it.
select r.counter_value, t.metric_value, t.reset_offset
from ops.counter_regressions as r
left join usage.merchant_usage as t
    on t.merchant_id = r.merchant_id
   and t.date = r.date
   and t.metric_type = r.metric_type
where r.regression_id = %(regression_id)s
  and r.accepted_at is null
for update of r;
