-- What compressing a chunk of a hypertable did. The function has its name of TimescaleDB 2.14, which newer ones keep.
select
    coalesce((
        select sum(numrows_pre_compression)
        from _timescaledb_catalog.compression_chunk_size as sizes
        join _timescaledb_catalog.chunk on chunk.id = sizes.chunk_id
        where format('%%I.%%I', chunk.schema_name, chunk.table_name) = %(chunk)s
    ), 0)::bigint,
    coalesce(stats.before_compression_total_bytes, 0),
    coalesce(stats.after_compression_total_bytes, 0)
from chunk_compression_stats(%(table)s::text::regclass) as stats
where format('%%I.%%I', stats.chunk_schema, stats.chunk_name) = %(chunk)s;
