-- Forgets the hash of the stored one of a conflict, where that one is erased or gone.
update ops.event_conflicts as conflict
set stored_hash = null
where conflict.stored_hash is not null
  and not exists (
    select 1
    from analytics.usage_event_ids as registry
    where conflict.kind = 'events'
      and registry.event_id = conflict.event_id
      and registry.payload_hash is not null
  )
  and not exists (
    select 1
    from analytics.message_archive_ids as registry
    where conflict.kind = 'archives'
      and registry.event_id = conflict.event_id
      and registry.payload_hash is not null
  );
