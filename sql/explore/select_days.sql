-- The first and last day with usage, within what a bound token may see.
select min(usage_date), max(usage_date)
from {usage}
where true{within}
