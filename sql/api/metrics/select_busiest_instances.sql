-- The server instances that counted the most uses of tokens on these days, with the sum and the number of all instances.
with instances as (
    select
        instance_id,
        sum(usage_count)::float as uses
    from raw.token_deltas
    where usage_date >= %(first_day)s
    group by instance_id
)
select
    instance_id,
    uses,
    sum(uses) over () as all_uses,
    count(*) over () as all_instances
from instances
order by uses desc, instance_id
limit %(most)s;
