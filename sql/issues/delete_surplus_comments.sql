-- Removes comments that an earlier load made up and this file has no more: those with a number beyond the new count.
delete from app.comments as t
using staged_issue as staged
where t.issue_id = staged.id
  and t.loaded_number > staged.comments;
