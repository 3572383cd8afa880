-- Runs that what is kept refers to, the last one of each asset, and those of backfills that go on.
create temporary table kept_runs as
select events.run_id
from event_logs as events
join kept_events on kept_events.id = events.id
where events.run_id <> ''
union
select executions.run_id
from asset_check_executions as executions
join kept_checks on kept_checks.id = executions.id
where executions.run_id is not null
union
select last_run_id
from asset_keys
where last_run_id is not null
union
select runs.run_id
from runs
join bulk_actions on bulk_actions.key = runs.backfill_id
where bulk_actions.status not in ('COMPLETED', 'COMPLETED_SUCCESS', 'COMPLETED_FAILED', 'FAILED', 'CANCELED');
