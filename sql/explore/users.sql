-- Distinct users of each group.
,
users as (
    select {keys}, count(*) as distinct_users
    from (
        select distinct {made_keys}, user_id
        from {source}
        where {time} >= {first}
          and {time} < {until}{kept_to}
    ) as each_user
    group by {keys}
)
