-- Stores what its counter reads, on top of what was folded in earlier. The value checked under lock must still
-- stand.
update usage.merchant_usage
set metric_value = reset_offset + %(counter)s,
    updated_at = clock_timestamp()
where merchant_id = %(merchant_id)s
  and date = %(day)s
  and metric_type = %(metric_type)s
  and metric_value = %(stored_value)s;
