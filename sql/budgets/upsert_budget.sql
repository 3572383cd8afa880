-- Sets a budget; the same again changes nothing, and returns no row.
insert into ops.budgets as budgets (name, scope_kind, scope_value, period, unit, limit_amount, alert_shares)
values (
    %(name)s, %(scope_kind)s, %(scope_value)s, %(period)s, %(unit)s, %(limit)s, %(alert_shares)s
)
on conflict (name) do update set
    scope_kind = excluded.scope_kind,
    scope_value = excluded.scope_value,
    period = excluded.period,
    unit = excluded.unit,
    limit_amount = excluded.limit_amount,
    alert_shares = excluded.alert_shares,
    updated_at = clock_timestamp()
where (
    budgets.scope_kind, budgets.scope_value, budgets.period, budgets.unit, budgets.limit_amount, budgets.alert_shares
) is distinct from (
    excluded.scope_kind, excluded.scope_value, excluded.period, excluded.unit, excluded.limit_amount, excluded.alert_shares
)
returning (xmax = 0) as is_new;
