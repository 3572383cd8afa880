-- The tags that are rolled up.
select distinct tag
from analytics.usage_tag_daily
order by tag
