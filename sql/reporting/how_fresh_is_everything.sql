-- How fresh is everything, and what was corrected in the last 30 days after it was closed?
select
    freshness.table_name,
    freshness.newest_complete_day,
    freshness.closed_windows_waiting,
    corrections.corrected_windows,
    corrections.change_of_requests
from reporting.data_freshness as freshness
left join (
    select
        table_name,
        count(distinct correction_number) as corrected_windows,
        sum(change) filter (where measure in ('requests', 'total_requests', 'upload_count', 'usage_count')) as change_of_requests
    from reporting.late_corrections
    where corrected_at > now() - interval '30 days'
    group by table_name
) as corrections on corrections.table_name = freshness.table_name
order by freshness.table_name;
