-- Opens an alert, or counts on the open one. A message is due unless one went out within the cool-down, of this alert or of an
-- earlier one with its key. The open row is looked at as it is under its lock: another evaluator may just have sent it.
insert into ops.alerts as alerts (dedupe_key, rule, severity, title, text, remedy, told, pending)
values (
    %(dedupe_key)s, %(rule)s, %(severity)s, %(title)s, %(text)s, %(remedy)s, '{}',
    case
        when %(is_told)s and not exists (
            select 1
            from ops.alerts as earlier
            where earlier.dedupe_key = %(dedupe_key)s
              and earlier.delivered_at > clock_timestamp() - %(cool_down)s::interval
        ) then 'raised'
    end
)
on conflict (dedupe_key) where cleared_at is null do update
set
    severity = excluded.severity,
    title = excluded.title,
    text = excluded.text,
    remedy = excluded.remedy,
    last_at = clock_timestamp(),
    count = alerts.count + 1,
    pending = case
        when not %(is_told)s then alerts.pending
        when alerts.delivered_at is null then coalesce(alerts.pending, excluded.pending)
        -- A channel that is new hears of what is open.
        when not alerts.told @> %(channels)s::text[] then 'raised'
        when alerts.delivered_at > clock_timestamp() - %(cool_down)s::interval then alerts.pending
        else 'raised'
    end,
    -- A repetition goes to all channels again, one that has not begun yet, that is, and that nobody is sending.
    delivered_to = case
        when %(is_told)s
            and alerts.delivered_at <= clock_timestamp() - %(cool_down)s::interval
            and coalesce(alerts.claimed_until < clock_timestamp(), true)
            then '{}'
        else alerts.delivered_to
    end,
    attempts = case when alerts.pending is null then 0 else alerts.attempts end,
    next_try_at = case when alerts.pending is null then clock_timestamp() else alerts.next_try_at end
returning (xmax = 0) as is_new;
