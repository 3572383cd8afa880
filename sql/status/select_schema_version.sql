-- The version of the schema, as the last migration noted it.
select version_num
from public.alembic_version;
