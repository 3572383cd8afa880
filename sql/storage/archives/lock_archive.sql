-- The manifest's row of an archive whose rows are only in its file, held until the transaction ends; none when they are not.
select 1
from ops.archives
where archive_id = %(archive_id)s
  and address = %(address)s
  and restored_at is null
  and deleted_at is null
for update;
