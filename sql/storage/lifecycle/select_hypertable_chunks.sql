-- Chunks of a hypertable that end by a moment, oldest first, and whether they hold rows that are not compressed.
-- Status bits of the catalog: 1 compressed, 2 unordered, 8 partial (rows came since).
select
    format('%%I.%%I', chunks.chunk_schema, chunks.chunk_name),
    chunks.range_start,
    chunks.range_end,
    not chunks.is_compressed or catalog.status & 10 <> 0
from timescaledb_information.chunks
join _timescaledb_catalog.chunk as catalog
    on catalog.schema_name = chunks.chunk_schema and catalog.table_name = chunks.chunk_name
where format('%%I.%%I', chunks.hypertable_schema, chunks.hypertable_name)::regclass = %(table)s::text::regclass
  and (%(end)s::timestamptz is null or chunks.range_end <= %(end)s)
order by chunks.range_start;
