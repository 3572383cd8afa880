-- Removes comments that an earlier load made and this file has no more: <issue>-<k> with a k beyond the new count.
delete from app.comments as t
using staged_issue as staged
where t.issue_id = staged.id
  and starts_with(t.id, staged.id || '-')
  and case
    when substr(t.id, length(staged.id) + 2) ~ '^[1-9][0-9]{0,5}$'
    then substr(t.id, length(staged.id) + 2)::bigint > staged.comments
    else false
  end;
