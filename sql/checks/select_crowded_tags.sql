-- Tags of these days with more values than stay apart, and how many requests are together as the rest; most first.
select
    tag,
    analytics.capped(sum(requests)) as requests
from analytics.usage_tag_daily
where usage_date between %(first_day)s and %(last_day)s
  and is_rest
group by tag
order by requests desc, tag;
