-- What do we charge each team for this month and the last, and what changed about it after its days were closed?
select
    months.month_start,
    months.team,
    months.requests,
    round(months.cost_usd, 2) as cost_usd,
    round(months.list_cost_usd, 2) as list_cost_usd,
    round(months.reported_cost_usd, 2) as reported_cost_usd,
    months.unpriced_requests,
    months.corrections,
    months.late_changes as late_changes_of_month,
    round(months.late_change_usd, 2) as late_change_of_month_usd
from reporting.charge_back as months
join reporting.current_day on months.month_start >= (current_day.month_start - interval '1 month')::date
order by months.month_start desc, months.cost_usd desc nulls last, months.team;
