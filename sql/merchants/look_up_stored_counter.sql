-- What is stored of the staged counter `s`, to join lateral: by index for each staged row, whatever the planner thinks of a table
-- without statistics, since it has a limit.
select u.metric_value, u.reset_offset
from usage.merchant_usage as u
where u.merchant_id = s.merchant_id
  and u.date = s.date
  and u.metric_type = s.metric_type
limit 1
