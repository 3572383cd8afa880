-- Files of a table that were being written or replaced, and whether the manifest refers to them after all.
select
    leftovers.address,
    exists (select 1 from ops.archives where archives.address = leftovers.address and deleted_at is null)
from ops.archive_leftovers as leftovers
where leftovers.table_name = %(table)s
order by leftovers.address;
