-- An alert that was sent before it could be noted.
insert into ops.alerts (
    dedupe_key, rule, severity, title, text, remedy, link, ending, size, first_at, repeat_after, recur_after
)
values (
    %(dedupe_key)s, %(rule)s, %(severity)s, %(title)s, %(text)s, %(remedy)s, %(link)s, %(ending)s, %(size)s, %(sent_at)s,
    %(repeat_after)s, %(recur_after)s
)
on conflict (dedupe_key) where cleared_at is null do nothing;
