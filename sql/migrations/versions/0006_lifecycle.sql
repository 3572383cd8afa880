-- Storage lifecycle: files that nobody refers to yet or any more, and the record of erasures.

-- Noted before a file is written and until the row that refers to it is committed; a rewritten file's old address comes here in
-- the transaction that replaces it. So no crash leaves a file that nobody knows of, and no listing of a folder that several
-- databases may share ever decides what is deleted.
create table ops.archive_leftovers (
    address text primary key,
    table_name text not null,
    noted_at timestamptz not null default clock_timestamp()
);
comment on table ops.archive_leftovers is 'Archive files that are being written or were replaced; those that ops.archives does not refer to are deleted by the next lifecycle run';
comment on column ops.archive_leftovers.address is 'Where the file is, below ARCHIVE_URL';
comment on column ops.archive_leftovers.table_name is 'Table whose rows it holds, as schema.name; its lifecycle lock guards the file';
comment on column ops.archive_leftovers.noted_at is 'When the writing began, or when it was replaced';

comment on column ops.archives.chunk_start is 'First moment of the partition; for raw.* midnight UTC of the day that it is named after';
comment on column ops.archives.chunk_end is 'Moment after the partition; for raw.* midnight UTC of the following day';

create table ops.erasures (
    erasure_id bigint generated always as identity primary key,
    pseudonym text not null unique,
    requested_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    counts jsonb not null default '{}',
    salt bytea,
    proof bytea,
    check ((finished_at is null) = (salt is not null) and (salt is null) = (proof is null))
);
comment on table ops.erasures is 'Erasures of users: what was removed or pseudonymised; the erased id itself is not kept';
comment on column ops.erasures.erasure_id is 'Erasure';
comment on column ops.erasures.pseudonym is 'Random name that stands for the user since then';
comment on column ops.erasures.requested_at is 'When the erasure was first asked for';
comment on column ops.erasures.finished_at is 'When everything was erased; null: it was cut short, the same command goes on with it';
comment on column ops.erasures.counts is 'Rows changed or removed, by table; files by file:<table>';
comment on column ops.erasures.salt is 'Random salt of proof; null once the erasure is finished';
comment on column ops.erasures.proof is 'scrypt of the id, by which an unfinished erasure is found again; null once it is finished';

-- The registry is emptied by day at the end of the retention, in batches.
create index on raw.request_event_ids using brin (usage_date);
