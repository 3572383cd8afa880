-- Goes on from a value of the counter: what is stored stays, and what the counter has beyond that value is added. The value checked
-- under lock must still stand.
update usage.merchant_usage
set reset_offset = metric_value - %(from_value)s,
    metric_value = metric_value - %(from_value)s + %(counter)s,
    updated_at = clock_timestamp()
where merchant_id = %(merchant_id)s
  and date = %(day)s
  and metric_type = %(metric_type)s
  and metric_value = %(stored_value)s;
