-- A stored project whose name differs from this one only in case or in slashes at its end, unless this one is stored, too.
select loaded_project
from app.issues
where lower(rtrim(loaded_project, '/')) = lower(rtrim(%(project)s, '/'))
  and not exists (
    select 1
    from app.issues as same
    where same.loaded_project = %(project)s
  )
limit 1;
