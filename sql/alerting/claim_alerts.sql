-- Takes due messages for one evaluator; others skip rows that it holds, and rows that it has taken.
update ops.alerts
set
    claimed_by = %(claimed_by)s,
    claimed_until = clock_timestamp() + %(lease)s::interval
where alert_id in (
    select alert_id
    from ops.alerts
    where pending is not null
      and next_try_at <= clock_timestamp()
      and coalesce(claimed_until < clock_timestamp(), true)
    order by alert_id
    limit %(most)s
    for update skip locked
)
returning
    alert_id, pending, rule, severity, title, text, remedy, first_at, last_at, count, delivered_to;
