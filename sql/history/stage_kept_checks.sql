-- Check executions that statuses are derived from: of each check and partition the newest, the newest that ended, and the newest with an event.
create temporary table kept_checks as
select max(id) as id
from asset_check_executions
group by asset_key, check_name, partition
union
select max(id)
from asset_check_executions
where execution_status <> 'PLANNED'
group by asset_key, check_name, partition
union
select max(id)
from asset_check_executions
where evaluation_event_storage_id is not null
group by asset_key, check_name, partition;
