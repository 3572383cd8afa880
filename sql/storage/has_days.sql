-- Whether anything is stored whose day depends on the time zone.
select
    exists (select 1 from ops.sync_batches where family <> 'merchant')
    or exists (select 1 from ops.ingest_batches)
    or exists (select 1 from stats.daily_issue_stats);
