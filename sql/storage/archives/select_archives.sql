-- Archives, oldest first: of a table, overlapping a span of time, only those whose rows are nowhere else, where these are asked for.
select archive_id, table_name, chunk_start, chunk_end, address, rows, bytes, checksum, archived_at, restored_at, deleted_at
from ops.archives
where (%(table)s::text is null or table_name = %(table)s)
  and (%(start)s::timestamptz is null or chunk_end > %(start)s)
  and (%(end)s::timestamptz is null or chunk_start < %(end)s)
  and (not %(only_in_files)s or (restored_at is null and deleted_at is null))
order by chunk_start, table_name, archive_id;
