-- Which types of error came up in the last 7 days, how often did each in the 7 days before, and since when are they known?
select
    days.provider,
    days.error_type,
    days.status_code,
    coalesce(sum(days.errors) filter (where days.usage_date between current_day.today - 13 and current_day.today - 7), 0)::bigint
        as errors_before,
    sum(days.errors) filter (where days.usage_date > current_day.today - 7)::bigint as errors,
    min(days.usage_date) as first_seen_on
from reporting.errors_by_type as days
join reporting.current_day on days.usage_date > current_day.today - 90
group by days.provider, days.error_type, days.status_code
having sum(days.errors) filter (where days.usage_date > current_day.today - 7) > 0
order by errors desc, days.provider, days.error_type, days.status_code
limit 12;
