-- Opens an alert, or counts on the open one. What is still silent of an earlier one with its key stays silent.
insert into ops.alerts as alerts (
    dedupe_key, rule, severity, title, text, remedy, link, ending, size, is_told, repeat_after, recur_after,
    snoozed_at, snoozed_by, snoozed_until
)
select
    %(dedupe_key)s, %(rule)s, %(severity)s, %(title)s, %(text)s, %(remedy)s, %(link)s, %(ending)s, %(size)s, %(is_told)s,
    %(repeat_after)s, %(recur_after)s, snoozed.snoozed_at, snoozed.snoozed_by, snoozed.snoozed_until
from (select) as one
left join lateral (
    select earlier.snoozed_at, earlier.snoozed_by, earlier.snoozed_until
    from ops.alerts as earlier
    where earlier.dedupe_key = %(dedupe_key)s
      and earlier.snoozed_until > clock_timestamp()
    order by earlier.alert_id desc
    limit 1
) as snoozed on true
on conflict (dedupe_key) where cleared_at is null do update
set
    severity = excluded.severity,
    title = excluded.title,
    text = excluded.text,
    remedy = excluded.remedy,
    link = excluded.link,
    ending = excluded.ending,
    size = excluded.size,
    is_told = excluded.is_told,
    repeat_after = excluded.repeat_after,
    recur_after = excluded.recur_after,
    last_at = clock_timestamp(),
    count = alerts.count + 1
returning (xmax = 0) as is_new;
