-- Dead letters of a batch, in its transaction.
copy ops.dead_letters (family, batch_id, source_key, position, reason, raw, raw_format, claimed_at, member) from stdin
with (format binary);
