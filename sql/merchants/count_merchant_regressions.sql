-- How many regressions of a day are open.
select count(*) as open_regressions
from ops.counter_regressions
where accepted_at is null
  and date = %(day)s;
