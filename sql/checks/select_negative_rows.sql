-- Rows of {table} with a count below 0, which no sum of what writers count can be.
select to_jsonb(counted)
from {table} as counted
where least({counts}) < 0
  and {day} >= %(first)s
  and {day} < %(until)s
order by {keys}
limit %(most)s;
