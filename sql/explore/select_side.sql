-- What is measured of each group in some days, one side of an answer.
with sums as (
    select {made_keys}{sums}
    from {source}
    where {time} >= {first}
      and {time} < {until}{kept_to}
    group by {keys}
){users}{latencies}
select {keys}, true as is_there{metrics}
from sums{joined}
