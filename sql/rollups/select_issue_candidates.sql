-- Issues created in the `ranking_window` of replace_ranking.sql: current views, and the comments written before its end.
select
    issue.id,
    case when length(issue.title) > 300 then left(issue.title, 299) || '…' else issue.title end as title,
    issue.view_count,
    (
        select count(*)
        from app.comments as comment
        where comment.issue_id = issue.id
          and comment.created_at < ranking_window.until
    ) as comment_count,
    issue.created_at
from app.issues as issue
where issue.created_at >= ranking_window.first
  and issue.created_at < ranking_window.until
