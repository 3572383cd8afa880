-- Of the rows of {table} with one value in {column}, or so many of them: their number, and how many have a value in each nullable column.
select
    count(*),
    array[{counts}]::bigint[]
from (
    select *
    from {table}
    where {column} = %(value)s
    limit %(most)s
) as part;
