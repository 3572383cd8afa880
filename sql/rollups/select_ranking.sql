-- The ranking of a date in {table}, or of the newest one that was made, best first. The newest may have no entries.
select ranking_date, rank, id, title, score, {parts}
from {table}
where ranking_date = coalesce(
    %(day)s::date,
    greatest(
        (select max(date) from ops.made_dates where table_name = %(table_name)s),
        (select max(ranking_date) from {table})
    )
)
order by rank;
