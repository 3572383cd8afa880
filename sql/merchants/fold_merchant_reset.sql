-- Puts the restarted counter on top of what was stored when Redis lost it. The value checked under lock must still stand.
update usage.merchant_usage
set reset_offset = metric_value,
    metric_value = metric_value + %(counter)s,
    updated_at = now()
where merchant_id = %(merchant_id)s
  and date = %(day)s
  and metric_type = %(metric_type)s
  and metric_value = %(stored_value)s;
