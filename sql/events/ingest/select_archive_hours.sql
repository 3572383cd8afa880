-- The hours of the events that staged archives belong to, so that their partitions can be made.
select distinct date_trunc('hour', registry.event_time)
from staged_message_archive as staged
join analytics.usage_event_ids as registry on registry.event_id = staged.event_id;
