-- Of the rows of {table}, or so many of them: their number, and how many have a value in each nullable column.
select
    count(*),
    array[{counts}]::bigint[]
from (
    select *
    from {table}
    limit %(most)s
) as part;
