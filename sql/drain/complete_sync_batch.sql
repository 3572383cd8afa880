-- What became known of a batch while it was applied, within the same transaction.
update ops.sync_batches
set stored_rows = %(stored_rows)s,
    dead_letters = %(dead_letters)s,
    refused_members = %(refused_members)s,
    duplicates = %(duplicates)s,
    usage_dates = %(usage_dates)s,
    instances = %(instances)s
where batch_id = %(batch_id)s;
