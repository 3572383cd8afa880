-- Sums of {value} in the windows of {table} up to one, oldest first; windows without rows are not among them.
select
    {window},
    sum({value})::float8
from {table}
where {window} > %(after)s
  and {window} <= %(last)s
group by {window}
order by {window};
