-- Lets usage_analyst read the views of reporting, those of later migrations too, and nothing else. Safe to repeat.
grant usage on schema reporting to usage_analyst;
grant select on all tables in schema reporting to usage_analyst;
alter default privileges in schema reporting grant select on tables to usage_analyst;
-- Behind reporting.usage_by_hour: it takes no arguments, and its schema stays closed, so nobody calls it by name.
grant execute on function analytics.changed_hours() to usage_analyst;
-- Behind reporting.cost_changes, which gives it what it asks for; nobody calls it by name here either.
grant execute on function analytics.list_prices to usage_analyst;
