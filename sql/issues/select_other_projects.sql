-- Staged issues of a file without a project that belong to another one: their number is stored without a project, but with another
-- time of creation, or for a project, with the same time. (Some exporters have no seconds.)
select
    staged.line,
    staged.number,
    stored.loaded_project,
    stored.created_at,
    timestamptz 'epoch' + staged.created_us * interval '1 microsecond' as came_at,
    count(*) over () as found
from staged_issue as staged
join app.issues as stored on stored.loaded_number = staged.number
where (stored.loaded_project = '') = (abs(extract(epoch from stored.created_at) * 1000000 - staged.created_us) >= 60000000)
order by staged.line
limit 1;
