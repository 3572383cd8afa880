-- Notes the events in a file that were erased; times are epoch microseconds.
insert into erased_event (event_id, event_time)
select event_id, timestamptz 'epoch' + microseconds * interval '1 microsecond'
from unnest(%(event_ids)s::uuid[], %(times)s::bigint[]) as event (event_id, microseconds)
on conflict do nothing;
