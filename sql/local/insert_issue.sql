-- A made-up issue, with the time of its resolution, which the trigger keeps.
insert into app.issues (id, title, status, reporter, assignee, view_count, created_at, updated_at, resolved_at)
values (
    %(id)s, %(title)s, %(status)s, %(reporter)s, %(assignee)s, %(view_count)s, %(created_at)s, %(updated_at)s, %(resolved_at)s
);
