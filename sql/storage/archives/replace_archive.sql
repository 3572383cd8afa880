-- Has the manifest refer to the rewritten file of an archive; the old one becomes a leftover. Nothing when it is another file by now.
with noted as (
    delete from ops.archive_leftovers
    where address = %(address)s
),
replaced as (
    update ops.archives
    set address = %(address)s,
        rows = %(rows)s,
        bytes = %(bytes)s,
        checksum = %(checksum)s
    where archive_id = %(archive_id)s
      and address = %(old_address)s
      and restored_at is null
      and deleted_at is null
    returning archive_id
),
left_over as (
    insert into ops.archive_leftovers (address, table_name)
    select %(old_address)s, %(table)s
    from replaced
    on conflict (address) do nothing
)
select archive_id
from replaced;
