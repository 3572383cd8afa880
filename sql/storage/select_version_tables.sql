-- Whether our schema is there without its table of versions, and beside it a table of versions that this user may read.
select
    to_regclass('ops.sync_batches') is not null
    and to_regclass('public.usage_pipeline_version') is null
    and coalesce(has_table_privilege(to_regclass('public.alembic_version'), 'select'), false);
