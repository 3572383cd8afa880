-- Takes staged lines out whose number came before.
delete from staged_issue as t
using (select number, min(line) as first_line from staged_issue group by number) as one
where t.number = one.number
  and t.line > one.first_line;
