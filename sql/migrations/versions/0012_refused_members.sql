-- A dead letter of one member of a key or an item, whose rest is stored; and what people put right, with their reasons.
alter table ops.dead_letters add column member text;
comment on column ops.dead_letters.member is 'Member that was refused, while the rest of the key or item was stored; null: nothing of it was stored';

alter table ops.sync_batches add column refused_members integer not null default 0;
comment on column ops.sync_batches.refused_members is 'Of dead_letters, those of single members: keys = stored_rows + duplicates + dead_letters - refused_members';
comment on column ops.sync_batches.dead_letters is 'Keys, items and members that were refused, see ops.dead_letters';

create table ops.corrections (
    correction_id bigint generated always as identity primary key,
    corrected_at timestamptz not null default clock_timestamp(),
    corrected_by text not null,
    reason text not null check (reason <> ''),
    subject text not null,
    before jsonb not null,
    after jsonb not null
);
create index on ops.corrections (subject);
comment on table ops.corrections is 'Numbers that people put right by name: who, when, why, and what was there before and after';
comment on column ops.corrections.correction_id is 'Number of the correction';
comment on column ops.corrections.corrected_at is 'When it was made';
comment on column ops.corrections.corrected_by is 'Who made it: the user and host of the command';
comment on column ops.corrections.reason is 'Why, in the words of whoever made it';
comment on column ops.corrections.subject is 'What was corrected, such as dead letter 17';
comment on column ops.corrections.before is 'Members that were changed, as they came; null: the member was not there';
comment on column ops.corrections.after is 'The same members, as they were set';
