-- Stores what its counter reads, on top of what was folded in earlier. The value checked under lock must still stand. What somebody took
-- off is more than the counter now has: then nothing is left.
update usage.merchant_usage
set metric_value = greatest(reset_offset, -%(counter)s::bigint) + %(counter)s,
    reset_offset = greatest(reset_offset, -%(counter)s::bigint),
    updated_at = clock_timestamp()
where merchant_id = %(merchant_id)s
  and date = %(day)s
  and metric_type = %(metric_type)s
  and metric_value = %(stored_value)s;
