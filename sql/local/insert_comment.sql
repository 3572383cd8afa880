-- A comment on a made-up issue.
insert into app.comments (id, issue_id, author, created_at)
values (%(id)s, %(issue_id)s, %(author)s, %(created_at)s);
