-- About how many rows a day of a roll-up has.
select coalesce(
    (select greatest(reltuples, 0) from pg_class where oid = %(table)s::regclass)
    / nullif((select max({time})::date - min({time})::date + 1 from {source}), 0),
    0
)::float8
