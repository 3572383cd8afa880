-- Events that were corrected while they were the user's. Those that were taken out are erased with all of their texts. Of all of them
-- and of all that are erased, the hashes of earlier versions go. Then whatever comes with such an id is a duplicate.
with theirs as (
    select distinct event_id
    from ops.corrections
    where event_id is not null
      and (before ->> 'user_id' in (%(user_id)s, %(pseudonym)s) or after ->> 'user_id' in (%(user_id)s, %(pseudonym)s))
),
taken_out as (
    select voided.event_id
    from analytics.voided_events as voided
    join ops.corrections as correction using (correction_id)
    where correction.before ->> 'user_id' in (%(user_id)s, %(pseudonym)s)
),
forgotten as (
    update analytics.usage_event_ids as registry
    set payload_hash = null
    from taken_out
    where registry.event_id = taken_out.event_id
    returning registry.event_id, registry.event_time
),
staged as (
    insert into erased_event (event_id, event_time)
    select event_id, event_time
    from forgotten
    on conflict do nothing
),
earlier as (
    update analytics.superseded_events
    set payload_hash = null
    where event_id in (select event_id from theirs union all select event_id from erased_event)
)
update ops.event_conflicts
set stored_hash = null
where kind = 'events'
  and event_id in (select event_id from theirs);
