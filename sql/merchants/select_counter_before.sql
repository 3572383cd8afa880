-- What a counter had when it was lost, if it reads at least that again and was not above it: all of that is stored.
select max(counter_before) as counter_before
from ops.counter_regressions
where merchant_id = %(merchant_id)s
  and date = %(day)s
  and metric_type = %(metric_type)s
  and counter_before >= %(last_counter)s
  and counter_before <= %(counter)s;
