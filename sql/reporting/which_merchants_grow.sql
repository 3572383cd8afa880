-- Which merchants grew most yesterday, compared with the day before?
select
    yesterday.merchant_id,
    yesterday.metric_type,
    day_before.metric_value as day_before,
    yesterday.metric_value as yesterday,
    round(100.0 * yesterday.metric_value / nullif(day_before.metric_value, 0) - 100, 1) as growth_percent
from reporting.current_day
join reporting.merchant_usage_by_day as yesterday on yesterday.usage_date = current_day.today - 1
left join reporting.merchant_usage_by_day as day_before
    on day_before.usage_date = current_day.today - 2
    and day_before.merchant_id = yesterday.merchant_id
    and day_before.metric_type = yesterday.metric_type
order by growth_percent desc nulls last, yesterday.merchant_id, yesterday.metric_type
limit 10;
