-- Takes staged issues out of which a comment would get the id of a comment on another issue, and says of which.
with clash as (
    select distinct on (staged.line)
        staged.line,
        comment.id,
        comment.issue_id
    from staged_issue as staged
    cross join generate_series(1, staged.comments) as k
    join app.comments as comment
        on comment.id = staged.id || '-' || k
        and comment.issue_id <> staged.id
    order by staged.line, k
),
gone as (
    delete from staged_issue as t
    using clash
    where t.line = clash.line
)
select line, id, issue_id
from clash
order by line;
