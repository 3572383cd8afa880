-- From this commit on the rows of a chunk are only in the file.
with noted as (
    delete from ops.archive_leftovers
    where address = %(address)s
)
insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum)
values (%(table)s, %(start)s, %(end)s, %(address)s, %(rows)s, %(bytes)s, %(checksum)s);
