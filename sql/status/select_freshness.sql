-- Each roll-up: its newest complete day, and how many closed hours, days, weeks or months wait to be made.
select
    table_name,
    newest_complete_day,
    coalesce(closed_windows_waiting, 0)::bigint as waiting
from reporting.data_freshness
order by table_name;
