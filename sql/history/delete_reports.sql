-- The next event rows of assets that no run wrote, such as the reports of the drain sensors; it says how far it came.
with candidates as (
    select id
    from event_logs
    where run_id = ''
      and id > %(after)s
      and asset_key is not null
      and timestamp < %(before)s
    order by id
    limit %(most)s
), removed as (
    delete from event_logs as events
    using candidates
    where events.id = candidates.id
      and not exists (select from kept_events where kept_events.id = events.id)
    returning events.id, pg_column_size(events.*) as bytes
), tags as (
    delete from asset_event_tags
    using removed
    where asset_event_tags.event_id = removed.id
)
select
    (select max(id) from candidates),
    count(*),
    coalesce(sum(bytes), 0)::bigint
from removed;
