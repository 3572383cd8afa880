-- The tags that are rolled up, within what a bound token may see: one step through an index for each tag of each team.
with recursive used as (
    (
        select team, tag
        from analytics.usage_tag_daily
        order by team, tag
        limit 1
    )
    union all
    select following.team, following.tag
    from used
    cross join lateral (
        select team, tag
        from analytics.usage_tag_daily as daily
        where (daily.team, daily.tag) > (used.team, used.tag)
        order by team, tag
        limit 1
    ) as following
)
select distinct tag
from used
where true{within}
order by tag
