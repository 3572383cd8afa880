-- Erasure: the hash of an erased event is forgotten, since whoever has its rest could find the id by trying. Faults of landed files.

alter table analytics.usage_event_ids alter column payload_hash drop not null;
alter table analytics.message_archive_ids alter column payload_hash drop not null;
alter table raw.request_event_ids alter column payload_hash drop not null;
alter table ops.event_conflicts alter column stored_hash drop not null;
alter table ops.event_conflicts alter column other_hash drop not null;
comment on column analytics.usage_event_ids.payload_hash is 'BLAKE2b-128 of the event without its time: the same id with another hash is a conflict. Null: erased, and whatever comes with the id is a duplicate';
comment on column analytics.message_archive_ids.payload_hash is 'BLAKE2b-128 of the archive: the same event with another hash is a conflict. Null: erased, and whatever comes with the id is a duplicate';
comment on column raw.request_event_ids.payload_hash is 'BLAKE2b-128 of the event without its time: the same id with another hash is a conflict. Null: erased, and whatever comes with the id is a duplicate';
comment on column ops.event_conflicts.stored_hash is 'Payload hash of the stored one; null once that is erased or gone';
comment on column ops.event_conflicts.other_hash is 'Payload hash of the one that was kept out; null once that is erased';

-- A person who is erased twice has one pseudonym.
alter table ops.erasures drop constraint if exists erasures_pseudonym_key;
create index if not exists erasures_pseudonym_idx on ops.erasures (pseudonym);
comment on column ops.erasures.pseudonym is 'Name that stands for the user since then; with ERASURE_SECRET the same one whenever the user is erased';

-- What earlier erasures left. Their events have the pseudonym.
update analytics.usage_event_ids as registry
set payload_hash = null
from analytics.usage_events as event
where event.event_id = registry.event_id
  and event.user_id in (select pseudonym from ops.erasures);

update raw.request_event_ids as registry
set payload_hash = null
from raw.request_events as event
where event.event_id = registry.event_id
  and event.user_id in (select pseudonym from ops.erasures);

-- A migration does not read files. So all events that are only in files are forgotten, if an erasure changed one of them.
update analytics.usage_event_ids as registry
set payload_hash = null
from ops.archives as file
where file.table_name = 'analytics.usage_events'
  and file.restored_at is null
  and file.deleted_at is null
  and registry.event_time >= file.chunk_start
  and registry.event_time < file.chunk_end
  and exists (
    select 1
    from ops.erasures
    where counts ? 'file:analytics.usage_events'
  );

update raw.request_event_ids as registry
set payload_hash = null
from ops.archives as file
where file.table_name = 'raw.request_events'
  and file.restored_at is null
  and file.deleted_at is null
  and registry.usage_date >= (file.chunk_start at time zone 'UTC')::date
  and registry.usage_date < (file.chunk_end at time zone 'UTC')::date
  and exists (
    select 1
    from ops.erasures
    where counts ? 'file:raw.request_events'
  );

update analytics.message_archive_ids as archive
set payload_hash = null
from analytics.usage_event_ids as event
where event.event_id = archive.event_id
  and event.payload_hash is null;

update ops.event_conflicts as conflict
set other_hash = null
from ops.erasures as erasure
where position(convert_to(erasure.pseudonym, 'UTF8') in conflict.other_payload) > 0;

-- The same as sql/events/erasure/forget_conflict_hashes.sql and forget_reason_hashes.sql, as they are today.
update ops.event_conflicts as conflict
set stored_hash = null
where exists (select 1 from ops.erasures)
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

update ops.dead_letters as letter
set reason = regexp_replace(letter.reason, ' \(hash [0-9a-f]+\)', '', 'g')
where exists (select 1 from ops.erasures)
  and letter.family = 'event'
  and starts_with(letter.reason, 'event_id: expected the stored payload (hash ')
  and not exists (
    select 1
    from raw.request_event_ids as registry
    where registry.payload_hash = decode(substring(letter.reason from '\(hash ([0-9a-f]+)\)'), 'hex')
  );

-- Alerts had the item of a refused request event; new ones have not.
update ops.alerts
set text = regexp_replace(text, '(item: expected a request event as JSON, came ).*', '\1one with a fault')
where strpos(text, 'item: expected a request event as JSON, came ') > 0;

-- The landing folder: files that cannot be read or moved are passed over.
create table if not exists ops.landing_faults (
    address text not null,
    fingerprint text not null,
    step text not null check (step in ('read', 'move')),
    reason text not null,
    copied_to text,
    failures integer not null default 1 check (failures >= 1),
    first_failed_at timestamptz not null default clock_timestamp(),
    last_failed_at timestamptz not null default clock_timestamp(),
    primary key (address, fingerprint)
);
comment on table ops.landing_faults is 'Files of the landing folder that could not be read or moved: passed over, and tried again more and more rarely';
comment on column ops.landing_faults.address is 'Its path below LANDING_URL';
comment on column ops.landing_faults.fingerprint is 'Size and time of change, or tag: the same path with another one is another file';
comment on column ops.landing_faults.step is 'read: it was not read yet; move: it was read (ops.landed_files) and stays where it is';
comment on column ops.landing_faults.reason is 'What the file system said last';
comment on column ops.landing_faults.copied_to is 'Copy of a file that could be copied and not deleted; null: there is none';
comment on column ops.landing_faults.failures is 'How often it failed';
comment on column ops.landing_faults.first_failed_at is 'When it first failed';
comment on column ops.landing_faults.last_failed_at is 'When it last failed';
