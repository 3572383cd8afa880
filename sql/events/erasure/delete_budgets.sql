-- Deletes the budgets of a user, with the alerts about them: a budget may be named after the user.
with gone as (
    delete from ops.budgets
    where scope_kind = 'user'
      and scope_value = %(user_id)s
    returning name
),
told as (
    delete from ops.alerts
    using gone
    where alerts.rule = 'budget'
      and starts_with(alerts.dedupe_key, 'budget:' || gone.name || ':')
)
select count(*) from gone;
