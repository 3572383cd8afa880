-- The end of a query that replaces a window: {table} gets the rows of `source` and keeps no other; rows that are right stay untouched.
gone as (
    delete from {table} as t
    where {window} = %(window)s
      and not exists (
        select 1
        from source
        where ({source_key}) = ({stored_key})
      )
    returning 1
),
changed as (
    select {source_key}, {source_values}
    from source
    left join {table} as t
        on t.{window} = %(window)s
        and ({stored_key}) = ({source_key})
    where ({stored_values}) is distinct from ({source_values})
),
stored as (
    insert into {table} as t ({window}, {key}, {values})
    select %(window)s, {key}, {values}
    from changed
    on conflict ({window}, {key_of_index}) do update
    set ({values}) = row({excluded_values}),
        updated_at = now()
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;
