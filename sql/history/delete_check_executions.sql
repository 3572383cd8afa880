-- The next old check executions that no status is derived from; those of runs in progress stay.
with candidates as (
    select executions.id
    from asset_check_executions as executions
    where executions.id > %(after)s
      and executions.create_timestamp < %(before)s
      and not exists (select from kept_checks where kept_checks.id = executions.id)
      and not exists (
          select from runs
          where runs.run_id = executions.run_id
            and runs.status <> all(%(ended_statuses)s)
      )
    order by executions.id
    limit %(most)s
), removed as (
    delete from asset_check_executions as executions
    using candidates
    where executions.id = candidates.id
    returning executions.id, pg_column_size(executions.*) as bytes
)
select
    (select max(id) from candidates),
    count(*),
    coalesce(sum(bytes), 0)::bigint
from removed;
