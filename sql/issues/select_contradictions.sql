-- Staged lines whose number came before with other content, and the line where it came first; how many in all.
with first_of_its_number as (
    select distinct on (number) line, number, title, status, view_count, comments, created_us, updated_us, resolved_us
    from staged_issue
    order by number, line
)
select
    staged.line,
    staged.number,
    first_of_its_number.line as first_line,
    count(*) over () as found
from staged_issue as staged
join first_of_its_number using (number)
where (
    staged.title, staged.status, staged.view_count, staged.comments, staged.created_us, staged.updated_us, staged.resolved_us
) is distinct from (
    first_of_its_number.title, first_of_its_number.status, first_of_its_number.view_count, first_of_its_number.comments,
    first_of_its_number.created_us, first_of_its_number.updated_us, first_of_its_number.resolved_us
)
order by staged.line
limit %(most)s;
