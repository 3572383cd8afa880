-- How large Dagster's storage is: rows of its big tables, and bytes on disk with indexes and what PostgreSQL has not reused yet.
select
    (select count(*) from runs) as runs,
    (select count(*) from event_logs) as event_rows,
    (select count(*) from job_ticks) as ticks,
    (
        select sum(pg_total_relation_size(name::regclass))::bigint
        from unnest(%(tables)s::text[]) as tables (name)
    ) as bytes;
