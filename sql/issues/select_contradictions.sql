-- Staged lines whose number came before with other content, and the line where it came first; how many in all.
with first_of_its_id as (
    select distinct on (id) line, id, title, status, view_count, comments, created_us, updated_us, resolved_us
    from staged_issue
    order by id, line
)
select
    staged.line,
    staged.id,
    first_of_its_id.line as first_line,
    count(*) over () as found
from staged_issue as staged
join first_of_its_id using (id)
where (
    staged.title, staged.status, staged.view_count, staged.comments, staged.created_us, staged.updated_us, staged.resolved_us
) is distinct from (
    first_of_its_id.title, first_of_its_id.status, first_of_its_id.view_count, first_of_its_id.comments,
    first_of_its_id.created_us, first_of_its_id.updated_us, first_of_its_id.resolved_us
)
order by staged.line
limit %(most)s;
