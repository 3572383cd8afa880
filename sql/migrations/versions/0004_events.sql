-- LLM usage events and message archives: registries that make ids unique over all days, partitions by time, ledger, conflicts.

-- The registries come first in every transaction, in id order: they settle which of two batches stores an event.

create table analytics.usage_event_ids (
    event_id uuid primary key,
    event_time timestamptz not null,
    payload_hash bytea not null
);
create index on analytics.usage_event_ids using brin (event_time);
comment on table analytics.usage_event_ids is 'Registry that makes event_id unique over all partitions of analytics.usage_events';
comment on column analytics.usage_event_ids.event_id is 'Event';
comment on column analytics.usage_event_ids.event_time is 'Time of the event that was stored, the first of its id';
comment on column analytics.usage_event_ids.payload_hash is 'BLAKE2b-128 of the event without its time: the same id with another hash is a conflict';

create table analytics.usage_events (
    event_id uuid not null,
    event_time timestamptz not null,
    user_id text not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    input_tokens bigint check (input_tokens >= 0),
    output_tokens bigint check (output_tokens >= 0),
    total_tokens bigint not null default 0 check (total_tokens >= 0),
    latency_ms integer check (latency_ms >= 0),
    status_code integer check (status_code between 100 and 599),
    error_type text,
    prompt text,
    extra jsonb,
    created_at timestamptz not null default now()
) partition by range (event_time);
-- Partitions bound the time already. A second column would make every entry of an index a different one, and inserting it
-- three times as expensive: see benchmarks/README.md.
create index on analytics.usage_events using brin (event_time) with (pages_per_range = 32, autosummarize = on);
create index on analytics.usage_events (team);
create index on analytics.usage_events (user_id);
create index on analytics.usage_events (service);
create index on analytics.usage_events (model);
comment on table analytics.usage_events is 'LLM usage events, each stored once by event_id (analytics.usage_event_ids)';
comment on column analytics.usage_events.event_id is 'Event, unique over all partitions';
comment on column analytics.usage_events.event_time is 'When the request was made, as the client stamped it';
comment on column analytics.usage_events.user_id is 'User who made the request';
comment on column analytics.usage_events.team is 'Team that it is charged to';
comment on column analytics.usage_events.service is 'Service that called the model';
comment on column analytics.usage_events.provider is 'Provider of the model';
comment on column analytics.usage_events.model is 'Model, as the client named it';
comment on column analytics.usage_events.input_tokens is 'Tokens of the prompt; null when the client did not say';
comment on column analytics.usage_events.output_tokens is 'Generated tokens; null when the client did not say';
comment on column analytics.usage_events.total_tokens is 'All tokens: input and output where both are given';
comment on column analytics.usage_events.latency_ms is 'Milliseconds from request to answer; null when the client did not say';
comment on column analytics.usage_events.status_code is 'HTTP status of the answer; null when the client did not say';
comment on column analytics.usage_events.error_type is 'Kind of error; null when there was none';
comment on column analytics.usage_events.prompt is 'Prompt, or a part of it; null when the client did not send it';
comment on column analytics.usage_events.extra is 'What the client added beyond these columns';
comment on column analytics.usage_events.created_at is 'When the event was stored';

create function analytics.is_error(status_code integer, error_type text) returns boolean
language sql immutable parallel safe
return error_type is not null or coalesce(status_code, 0) >= 400;
comment on function analytics.is_error is 'Whether a request counts as an error: it names a kind of error, or its status is 400 or more';

create table analytics.message_archive_ids (
    event_id uuid primary key references analytics.usage_event_ids on delete cascade,
    payload_hash bytea not null
);
comment on table analytics.message_archive_ids is 'Registry that keeps one message archive per event';
comment on column analytics.message_archive_ids.event_id is 'Event that the archive belongs to';
comment on column analytics.message_archive_ids.payload_hash is 'BLAKE2b-128 of the archive: the same event with another hash is a conflict';

create table analytics.message_archives (
    event_id uuid not null,
    event_time timestamptz not null,
    user_id text not null,
    service text not null,
    prompt_full text,
    response_full text,
    stored_at timestamptz not null default now()
) partition by range (event_time);
create index on analytics.message_archives (event_id);
create index on analytics.message_archives (user_id, event_time);
comment on table analytics.message_archives is 'Full prompts and responses, at most one per event (analytics.message_archive_ids)';
comment on column analytics.message_archives.event_id is 'Event that it belongs to';
comment on column analytics.message_archives.event_time is 'Time of that event, so that both leave together';
comment on column analytics.message_archives.user_id is 'User who made the request';
comment on column analytics.message_archives.service is 'Service that called the model';
comment on column analytics.message_archives.prompt_full is 'Whole prompt';
comment on column analytics.message_archives.response_full is 'Whole response';
comment on column analytics.message_archives.stored_at is 'When the archive was stored';

create table ops.ingest_batches (
    batch_id text primary key,
    kind text not null check (kind in ('events', 'archives')),
    source text not null,
    received integer not null check (received = inserted + duplicates + conflicts + rejected),
    inserted integer not null,
    duplicates integer not null,
    conflicts integer not null,
    rejected integer not null,
    stored_at timestamptz not null default clock_timestamp()
);
create index on ops.ingest_batches (stored_at);
comment on table ops.ingest_batches is 'Ledger of ingested batches of usage events and message archives';
comment on column ops.ingest_batches.batch_id is 'Batch: epoch milliseconds of its arrival and random bits, so that ids ascend with time';
comment on column ops.ingest_batches.kind is 'events or archives';
comment on column ops.ingest_batches.source is 'Where it came from: http:<token_id> or file:<address>';
comment on column ops.ingest_batches.received is 'Items in the batch';
comment on column ops.ingest_batches.inserted is 'Items that were stored';
comment on column ops.ingest_batches.duplicates is 'Items that were stored before and otherwise equal';
comment on column ops.ingest_batches.conflicts is 'Items whose id is stored with another payload, see ops.event_conflicts';
comment on column ops.ingest_batches.rejected is 'Items that could not be stored; the caller was told index and reason';
comment on column ops.ingest_batches.stored_at is 'When it was stored';

create table ops.event_conflicts (
    event_conflict_id bigint generated always as identity primary key,
    kind text not null check (kind in ('events', 'archives')),
    event_id uuid not null,
    stored_hash bytea not null,
    other_hash bytea not null,
    other_payload bytea not null,
    batch_id text not null,
    times integer not null default 1,
    detected_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp()
);
create unique index on ops.event_conflicts (kind, event_id, other_hash);
comment on table ops.event_conflicts is 'Items that came under the id of a stored one with another payload: kept out, kept here';
comment on column ops.event_conflicts.event_conflict_id is 'Conflict';
comment on column ops.event_conflicts.kind is 'events or archives';
comment on column ops.event_conflicts.event_id is 'Id that both have';
comment on column ops.event_conflicts.stored_hash is 'Payload hash of the stored one';
comment on column ops.event_conflicts.other_hash is 'Payload hash of the one that was kept out';
comment on column ops.event_conflicts.other_payload is 'The one that was kept out, as the JSON that came';
comment on column ops.event_conflicts.batch_id is 'Batch that first brought it, see ops.ingest_batches';
comment on column ops.event_conflicts.times is 'How often it came';
comment on column ops.event_conflicts.detected_at is 'When it first came';
comment on column ops.event_conflicts.last_seen_at is 'When it last came';

-- Only ever appended to and emptied, so that concurrent batches never wait for each other on the row of a day.
create table ops.touched_windows (
    grain text not null check (grain in ('hour', 'day', 'week', 'month')),
    window_start timestamptz not null,
    touched_at timestamptz not null default clock_timestamp()
);
create index on ops.touched_windows (grain, window_start);
comment on table ops.touched_windows is 'Windows whose events changed since their roll-up was last made, one row per change; a roll-up removes those that it has seen';
comment on column ops.touched_windows.grain is 'hour, day, week or month in USAGE_TIMEZONE';
comment on column ops.touched_windows.window_start is 'First moment of the window';
comment on column ops.touched_windows.touched_at is 'When it was touched';

create table ops.archives (
    archive_id bigint generated always as identity primary key,
    table_name text not null,
    chunk_start timestamptz not null,
    chunk_end timestamptz not null check (chunk_end > chunk_start),
    address text not null unique,
    rows bigint not null,
    bytes bigint not null,
    checksum text not null,
    archived_at timestamptz not null default clock_timestamp(),
    restored_at timestamptz,
    deleted_at timestamptz
);
create index on ops.archives (table_name, chunk_start);
comment on table ops.archives is 'Manifest of the Parquet files that old partitions were rewritten to';
comment on column ops.archives.archive_id is 'Archive';
comment on column ops.archives.table_name is 'Table whose partition it was, as schema.name';
comment on column ops.archives.chunk_start is 'First moment of the partition';
comment on column ops.archives.chunk_end is 'Moment after the partition';
comment on column ops.archives.address is 'Where the file is, below ARCHIVE_URL';
comment on column ops.archives.rows is 'Rows in it';
comment on column ops.archives.bytes is 'Size of the file';
comment on column ops.archives.checksum is 'SHA-256 of the file';
comment on column ops.archives.archived_at is 'When the partition was verified and dropped';
comment on column ops.archives.restored_at is 'When its rows were read back into the table; null: they are only in the file';
comment on column ops.archives.deleted_at is 'When the file was deleted, at the end of the retention or after it was read back; null: it is there';

create table ops.landed_files (
    landed_file_id bigint generated always as identity primary key,
    address text not null,
    fingerprint text not null,
    bytes bigint not null,
    kind text not null check (kind in ('events', 'archives')),
    outcome text not null check (outcome in ('stored', 'broken')),
    reason text check ((reason is null) = (outcome = 'stored')),
    received bigint not null,
    inserted bigint not null,
    duplicates bigint not null,
    conflicts bigint not null,
    rejected bigint not null,
    ended_at timestamptz not null default clock_timestamp(),
    unique (address, fingerprint)
);
comment on table ops.landed_files is 'Files of usage events and message archives that were read, each once';
comment on column ops.landed_files.landed_file_id is 'File';
comment on column ops.landed_files.address is 'Its path below LANDING_URL';
comment on column ops.landed_files.fingerprint is 'Size and time of change, or tag: the same path with another one is another file';
comment on column ops.landed_files.bytes is 'Size of the file';
comment on column ops.landed_files.kind is 'events or archives';
comment on column ops.landed_files.outcome is 'stored: read to its end; broken: only up to where it could be read';
comment on column ops.landed_files.reason is 'Why it is broken; null when it is not';
comment on column ops.landed_files.received is 'Items that were read';
comment on column ops.landed_files.inserted is 'Items that were stored';
comment on column ops.landed_files.duplicates is 'Items that were stored before and otherwise equal';
comment on column ops.landed_files.conflicts is 'Items whose id is stored with another payload, see ops.event_conflicts';
comment on column ops.landed_files.rejected is 'Items that could not be stored, see ops.dead_letters';
comment on column ops.landed_files.ended_at is 'When reading it ended';

comment on column ops.dead_letters.batch_id is 'Batch that met it; null for merchant counters and items of landed files, which may be read again and are listed once';
comment on column ops.dead_letters.family is 'api_key, provider, token, event or merchant; usage_event or message_archive for items of landed files';
comment on column ops.dead_letters.source_key is 'Redis key or landed file that it came from, as raw bytes';
comment on column ops.dead_letters.position is 'Position in the batch''s queue items, or in the file';
