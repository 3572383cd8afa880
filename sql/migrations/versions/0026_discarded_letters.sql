-- Dead letters have a second way out: somebody decides that they do not count. They are kept.
alter table ops.dead_letters
    add column attempts integer not null default 0 check (attempts >= 0),
    add column tried_at timestamptz,
    add column discarded_at timestamptz,
    add column discarded_by text,
    add column discard_reason text check (discard_reason <> ''),
    add check ((discarded_at is null) = (discarded_by is null) and (discarded_at is null) = (discard_reason is null));
comment on table ops.dead_letters is 'Input that was refused, with its reason and raw bytes. Open until `usage-pipeline dead-letters replay` counts it, or `dead-letters discard` decides that it does not count';
comment on column ops.dead_letters.position is 'Position in the batch''s queue items. In a landed file of JSON lines its line, from 1 on, blank ones counted; in one with a JSON array its index there, from 0 on';
comment on column ops.dead_letters.replayed_at is 'When a replay counted it, also after it was discarded; null: it does not count';
comment on column ops.dead_letters.attempts is 'How many replays refused it again';
comment on column ops.dead_letters.tried_at is 'When a replay last refused it again; null: never';
comment on column ops.dead_letters.discarded_at is 'When somebody decided that it does not count; null: nobody did';
comment on column ops.dead_letters.discarded_by is 'Who decided it: the user and host of the command';
comment on column ops.dead_letters.discard_reason is 'Why, in the words of whoever decided it';

-- Open means neither counted nor discarded: what alerts, checks and metrics look at.
drop index ops.dead_letters_family_created_at_idx;
create index dead_letters_open_idx on ops.dead_letters (family, created_at) where replayed_at is null and discarded_at is null;
create index dead_letters_discarded_idx on ops.dead_letters (family) where discarded_at is not null and replayed_at is null;

-- Two equal lines of one file were one dead letter. Positions in files of JSON lines were counted from 0 on, without blank lines:
-- now they are lines. What was read of a file before this version and is read again after a crash keeps its place, so it is
-- the same dead letter, unless blank lines are before it.
update ops.dead_letters
set position = position + 1
where family in ('usage_event', 'message_archive')
  and batch_id is null
  and encode(source_key, 'escape') ~ '\.jsonl(\.gz)?$';
drop index ops.dead_letters_merchant_idx;
create unique index dead_letters_reread_idx on ops.dead_letters (md5(source_key), md5(raw), coalesce(position, -1)) where batch_id is null;

-- What was recorded and refused, and does not count because somebody decided so, is not missing.
alter table ops.reconciliation
    add column discarded numeric not null default 0 check (discarded >= 0),
    drop constraint reconciliation_check,
    add constraint reconciliation_check check (
        difference = recorded - stored - live - claimed - dead - duplicates - carried - corrected - discarded
    );
comment on column ops.reconciliation.discarded is 'What discarded dead letters hold, as far as it can be read: somebody decided that it does not count';
