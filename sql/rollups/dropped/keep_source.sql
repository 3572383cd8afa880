-- The end of a query that makes a window: {kept} gets the rows of `source`, which begin with those that it has now.
gone as (
    delete from {kept}
    where {window} = %(window)s
)
insert into {kept} ({window}, {key}, {values})
select %(window)s, {source_key}, {source_values}
from source;
