-- The next runs that are over for long, by their number, with what is to go: the whole run, its details and
-- compute logs, its details, or nothing. Runs in progress are never among them. The event that says where the logs are goes with
-- them, so that they are not looked for every day again.
with ended as (
    select
        runs.id,
        runs.run_id,
        runs.status,
        coalesce(runs.end_time, extract(epoch from runs.update_timestamp)) as ended_at
    from runs
    where runs.id > %(after)s
      and runs.status = any(%(ended_statuses)s)
      and coalesce(runs.end_time, extract(epoch from runs.update_timestamp)) < greatest(%(runs_before)s, %(events_before)s)
    order by runs.id
    limit %(most)s
)
select
    ended.id,
    ended.run_id,
    case
        when ended.ended_at < %(runs_before)s and kept_runs.run_id is null then 'run'
        when ended.ended_at < %(runs_before)s and exists (
            select
            from event_logs
            where event_logs.run_id = ended.run_id
              and event_logs.dagster_event_type = 'LOGS_CAPTURED'
        ) then 'logs'
        when ended.ended_at < %(runs_before)s then 'details'
        when ended.ended_at < %(events_before)s and ended.status = 'SUCCESS' then 'details'
        else 'nothing'
    end as what
from ended
left join kept_runs on kept_runs.run_id = ended.run_id
order by ended.id;
