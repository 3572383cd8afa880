-- Times whose events are in an archive file and not in the table.
select chunk_start, chunk_end
from ops.archives
where table_name = 'analytics.usage_events'
  and restored_at is null
  and deleted_at is null
order by chunk_start;
