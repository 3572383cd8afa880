-- Budgets: what may be used in a day, week or month. What is used of them is never stored: it comes from the roll-ups.

create table ops.budgets (
    name text primary key,
    scope_kind text check (scope_kind in ('team', 'service', 'user', 'model', 'api_key')),
    scope_value text,
    period text not null check (period in ('day', 'week', 'month')),
    unit text not null check (unit in ('usd', 'tokens', 'requests')),
    limit_amount numeric not null check (limit_amount > 0),
    alert_shares integer[] not null check (cardinality(alert_shares) between 1 and 10 and 0 < all (alert_shares)),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    check ((scope_kind is null) = (scope_value is null))
);
comment on table ops.budgets is 'How much may be used in a period, and by whom; usage-pipeline budgets writes them (docs/budgets.md)';
comment on column ops.budgets.name is 'Name of the budget';
comment on column ops.budgets.scope_kind is 'Whose usage counts: that of a team, service, user, model or api_key; null: all usage';
comment on column ops.budgets.scope_value is 'Which team, service, user, model or API key; null: all usage';
comment on column ops.budgets.period is 'day, week (from Monday) or month, in USAGE_TIMEZONE';
comment on column ops.budgets.unit is 'What is counted: usd (cost_usd), tokens (total_tokens) or requests';
comment on column ops.budgets.limit_amount is 'How much of the unit may be used in a period';
comment on column ops.budgets.alert_shares is 'Percent of the limit at which an alert is raised, once a period each';
comment on column ops.budgets.created_at is 'When it was first set';
comment on column ops.budgets.updated_at is 'When it was last changed';
