-- Takes due messages for one evaluator; others skip rows that it holds, and rows that it has taken. The first few of each rule go
-- before the rest, so that a rule with hundreds holds up no other. Then what has begun, failures first, goes before what is over.
update ops.alerts
set
    claimed_by = %(claimed_by)s,
    claimed_until = clock_timestamp() + %(lease)s::interval
where alert_id in (
    select alerts.alert_id
    from ops.alerts
    join (
        select
            alert_id,
            row_number() over (
                partition by rule
                order by pending = 'cleared', severity <> 'failure', alert_id
            ) as place_in_rule
        from ops.alerts
        where pending is not null
          and next_try_at <= clock_timestamp()
          and coalesce(claimed_until < clock_timestamp(), true)
    ) as due
        on due.alert_id = alerts.alert_id
    where alerts.pending is not null
      and alerts.next_try_at <= clock_timestamp()
      and coalesce(alerts.claimed_until < clock_timestamp(), true)
    order by
        due.place_in_rule > %(share)s,
        alerts.pending = 'cleared',
        alerts.severity <> 'failure',
        due.place_in_rule,
        alerts.alert_id
    limit %(most)s
    for update of alerts skip locked
)
returning
    alert_id, pending, rule, severity, title, text, remedy, first_at, last_at, count, delivered_to, told;
