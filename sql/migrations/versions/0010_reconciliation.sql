-- What the recorder says it wrote, beside what became of it. Sums of counts of all keys: numeric, since a bigint may overflow.
create table ops.reconciliation (
    family text not null check (family in ('api_key', 'provider', 'token', 'event', 'merchant')),
    usage_date date not null,
    measure text not null,
    recorded numeric not null,
    stored numeric not null,
    live numeric not null,
    claimed numeric not null,
    dead numeric not null,
    duplicates numeric not null,
    carried numeric not null,
    difference numeric not null,
    missing numeric not null check (missing >= 0),
    missing_since timestamptz,
    reconciled_at timestamptz not null default clock_timestamp(),
    primary key (family, usage_date),
    check (difference = recorded - stored - live - claimed - dead - duplicates - carried),
    check ((missing = 0) = (missing_since is null))
);
comment on table ops.reconciliation is 'Per family and day: what our recorder wrote to Redis and what became of it, as of the last look at that day';
comment on column ops.reconciliation.family is 'api_key, provider, token, event or merchant';
comment on column ops.reconciliation.usage_date is 'Day in USAGE_TIMEZONE';
comment on column ops.reconciliation.measure is 'What is counted: the field of the odometer (records: request events)';
comment on column ops.reconciliation.recorded is 'What the odometer counted, usage_pipeline:recorded:{family}:{day}: our recorder only, no other writer';
comment on column ops.reconciliation.stored is 'What is stored of that day, whoever wrote it';
comment on column ops.reconciliation.live is 'What waits in Redis under its live name; of merchant counters what is not stored yet';
comment on column ops.reconciliation.claimed is 'What a drain has claimed and not stored';
comment on column ops.reconciliation.dead is 'What open dead letters hold, as far as it can be read';
comment on column ops.reconciliation.duplicates is 'Request events that were recorded again under the id of a stored one';
comment on column ops.reconciliation.carried is 'What counts for another day: a delta over midnight, or beside a late record, has one day only; negative: came from another day';
comment on column ops.reconciliation.difference is 'recorded less all of these. Above 0: not to be found. Below 0: writers other than our recorder, or something counted twice';
comment on column ops.reconciliation.missing is 'What two looks in a row did not find; 0 when the second one found it';
comment on column ops.reconciliation.missing_since is 'When something was first missing; null: nothing is';
comment on column ops.reconciliation.reconciled_at is 'When the day was last looked at';
