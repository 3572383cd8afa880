-- The tags that are rolled up, within what a bound token may see: one step through an index for each.
with recursive tags as (
    (
        select tag
        from analytics.usage_tag_daily
        order by tag
        limit 1
    )
    union all
    select (
        select following.tag
        from analytics.usage_tag_daily as following
        where following.tag > tags.tag
        order by following.tag
        limit 1
    )
    from tags
    where tag is not null
)
select tag
from tags
where exists (
    select 1
    from analytics.usage_tag_daily as used
    where used.tag = tags.tag{within}
)
order by tag
