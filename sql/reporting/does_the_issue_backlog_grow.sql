-- Does the backlog of issues grow, and how long does it take to resolve one?
select
    weeks.week_start,
    weeks.created_issues,
    weeks.resolved_issues,
    weeks.created_issues - weeks.resolved_issues as backlog_change,
    weeks.open_issues,
    durations.median_days_to_resolve
from (
    select
        date_trunc('week', issue_date::timestamp)::date as week_start,
        sum(created_issues)::bigint as created_issues,
        sum(resolved_issues)::bigint as resolved_issues,
        (array_agg(open_issues order by issue_date desc))[1] as open_issues
    from reporting.issue_flow
    group by 1
) as weeks
left join reporting.time_to_resolve_by_week as durations on durations.week_start = weeks.week_start
order by weeks.week_start desc
limit 6;
