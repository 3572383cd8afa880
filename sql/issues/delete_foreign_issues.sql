-- Takes staged issues out whose id is that of an issue of an application or of another project, and says of which.
delete from staged_issue as t
using app.issues as stored
where stored.id = t.id
  and (stored.loaded_number, stored.loaded_project = any(array[%(project)s, ''])) is distinct from (t.number, true)
returning t.line, t.id, stored.loaded_project;
