-- How often do requests to each provider of models fail, in the last 7 days and in the 7 before?
select
    days.provider,
    sum(days.requests) filter (where days.usage_date > current_day.today - 7)::bigint as requests,
    round(
        100 * sum(days.errors) filter (where days.usage_date > current_day.today - 7)
        / nullif(sum(days.requests) filter (where days.usage_date > current_day.today - 7), 0),
        2
    ) as failed_percent,
    round(
        100 * sum(days.errors) filter (where days.usage_date <= current_day.today - 7)
        / nullif(sum(days.requests) filter (where days.usage_date <= current_day.today - 7), 0),
        2
    ) as failed_percent_before
from reporting.error_rate_by_provider as days
join reporting.current_day on days.usage_date > current_day.today - 14
group by days.provider
order by failed_percent desc nulls last, days.provider;
