-- Of each tag of a day: how many values stay apart, and how many requests the others have together.
select
    tag,
    count(distinct value) filter (where not is_rest) as tag_values,
    analytics.capped(coalesce(sum(requests) filter (where is_rest), 0)) as other_requests
from analytics.usage_tag_daily
where usage_date = %(usage_date)s
group by tag
order by tag;
