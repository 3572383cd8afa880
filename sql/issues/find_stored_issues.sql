-- Gives staged issues the ids under which they are stored. An issue that was loaded without a project, and has the same number and
-- time of creation, is taken into the project. (Some exporters have no seconds.)
update staged_issue as staged
set id = stored.id
from app.issues as stored
where stored.loaded_number = staged.number
  and (
    stored.loaded_project = %(project)s
    or (
        stored.loaded_project = ''
        and abs(extract(epoch from stored.created_at) * 1000000 - staged.created_us) < 60000000
        and not exists (
            select 1
            from app.issues as named
            where named.loaded_number = staged.number
              and named.loaded_project = %(project)s
              and named.id <> stored.id
        )
    )
  );
