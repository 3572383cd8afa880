-- Gives our table of versions a name of its own; its key too, since Dagster's has the name that ours had.
alter table public.alembic_version rename to usage_pipeline_version;
alter table public.usage_pipeline_version rename constraint alembic_version_pkc to usage_pipeline_version_pkc;
