-- The ranking of a date in {table}, or of the newest one that is stored, best first.
select ranking_date, rank, id, title, score, {parts}
from {table}
where ranking_date = coalesce(%(day)s::date, (select max(ranking_date) from {table}))
order by rank;
