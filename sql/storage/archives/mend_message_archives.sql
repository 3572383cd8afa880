-- Mends what was just read back from an archive, if it is from before migration 0013.
select analytics.mend_message_archives(chunk_start, chunk_end)
from ops.archives
where archive_id = %(archive_id)s
  and has_old_rules;
