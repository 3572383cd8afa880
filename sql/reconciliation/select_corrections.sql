-- By how much accepted corrections lowered the merchant counters of each day.
select date, sum(value_before - value_after) as amount
from ops.counter_regressions
where outcome = 'corrected'
  and value_after < value_before
  and date between %(first_day)s and %(last_day)s
group by date;
