-- All budgets, by name.
select
    name,
    scope_kind,
    scope_value,
    period,
    unit,
    limit_amount,
    alert_shares,
    updated_at
from ops.budgets
order by name;
