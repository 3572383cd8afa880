-- Takes staged lines out whose number came before.
delete from staged_issue as t
using (select id, min(line) as first_line from staged_issue group by id) as one
where t.id = one.id
  and t.line > one.first_line;
