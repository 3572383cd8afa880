-- How many rows a table has of these days, the last one not included.
select count(*)
from {table}
where {day} >= %(first)s
  and {day} < %(until)s
