-- Event rows that statuses are derived from: the newest of its kind of each asset and partition. Two halves, as each has an index.
create temporary table kept_events as
select max(id) as id
from event_logs
where asset_key is not null
  and partition is not null
group by asset_key, dagster_event_type, partition
union
select max(id)
from event_logs
where asset_key is not null
  and partition is null
group by asset_key, dagster_event_type
union
select executions.evaluation_event_storage_id
from asset_check_executions as executions
join kept_checks on kept_checks.id = executions.id
where executions.evaluation_event_storage_id is not null;
