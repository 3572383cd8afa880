-- Which services got slower this week, compared with last week?
select
    this_week.service,
    last_week.measured_requests as requests_last_week,
    this_week.measured_requests as requests_this_week,
    round(last_week.latency_p95_ms)::bigint as p95_ms_last_week,
    round(this_week.latency_p95_ms)::bigint as p95_ms_this_week,
    round((100 * (this_week.latency_p95_ms / nullif(last_week.latency_p95_ms, 0) - 1))::numeric, 1) as change_percent
from reporting.current_day
join reporting.latency_by_service_and_week as this_week on this_week.week_start = current_day.week_start
join reporting.latency_by_service_and_week as last_week
    on last_week.week_start = current_day.week_start - 7
    and last_week.service = this_week.service
order by change_percent desc nulls last, this_week.service;
