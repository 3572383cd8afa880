-- Which API keys fail most often, of those with 100 requests or more in the last 30 days?
select
    days.api_key_id,
    sum(days.requests)::bigint as requests,
    sum(days.failed_requests)::bigint as failed_requests,
    round(100 * sum(days.failed_requests) / sum(days.requests), 1) as failed_percent
from reporting.api_key_usage_by_day as days
join reporting.current_day on days.usage_date > current_day.today - 30
group by days.api_key_id
having sum(days.requests) >= 100
order by failed_percent desc, requests desc, days.api_key_id
limit 5;
