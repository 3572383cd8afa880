-- An alert that was sent before it could be noted.
insert into ops.alerts (dedupe_key, rule, severity, title, text, remedy, first_at, delivered_at)
values (%(dedupe_key)s, %(rule)s, %(severity)s, %(title)s, %(text)s, %(remedy)s, %(sent_at)s, %(sent_at)s)
on conflict (dedupe_key) where cleared_at is null do nothing;
