-- The busiest keys and tokens of an hour, each with its hours before as an array: from its first one on, idle ones are zeros, and
-- those that were abnormal are left out.
with busiest as (
    select family, id, hour_start, uses
    from ops.usage_hours
    where family in ('api_key', 'token')
      and hour_start = %(hour)s
      and uses >= %(least_uses)s
    order by uses desc, family, id
    limit %(most)s
)
select
    busiest.family,
    busiest.id,
    busiest.hour_start,
    busiest.uses,
    past.history
from busiest
cross join lateral (
    select coalesce(
        array_agg(hours.uses) filter (where not hours.is_abnormal)
            || array_fill(0::bigint, array[greatest(
                0,
                (extract(epoch from %(hour)s::timestamptz - min(hours.hour_start)) / 3600)::integer - count(*)::integer
            )]),
        '{}'
    ) as history
    from ops.usage_hours as hours
    where hours.family = busiest.family
      and hours.id = busiest.id
      and hours.hour_start >= %(first_hour)s
      and hours.hour_start < %(hour)s
) as past
order by busiest.uses desc, busiest.family, busiest.id;
