-- Event rows of runs, but for those that statuses are derived from; how a run went as a whole, and why it failed, stay unless
-- all is to go; and where its logs are stays as long as they do.
with removed as (
    delete from event_logs as events
    where events.run_id = any(%(run_ids)s)
      and not exists (select from kept_events where kept_events.id = events.id)
      and (
          %(whole)s
          or events.dagster_event_type is null
          or not (starts_with(events.dagster_event_type, 'PIPELINE_') or events.dagster_event_type = 'STEP_FAILURE')
          and (%(logs)s or events.dagster_event_type <> 'LOGS_CAPTURED')
      )
    returning events.id, events.run_id, pg_column_size(events.*) as bytes
), tags as (
    delete from asset_event_tags
    using removed
    where asset_event_tags.event_id = removed.id
)
select
    count(distinct run_id),
    count(*),
    coalesce(sum(bytes), 0)::bigint
from removed;
