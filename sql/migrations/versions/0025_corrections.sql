-- Corrections by name (contracts §8.3): events that are taken out or replaced, conflicts that are decided, counters that are adjusted.

alter table ops.corrections add column event_id uuid;
create index on ops.corrections (event_id) where event_id is not null;
comment on column ops.corrections.corrected_by is 'Who made it: the user and host of the command, or the name and id of the token';
comment on column ops.corrections.subject is 'What was corrected, such as dead letter 17, event 0f0e1c2a-…, conflict 3, api_key k1 total_requests 2026-11-28';
comment on column ops.corrections.event_id is 'Usage event that was corrected; null: something else was';
comment on column ops.corrections.before is 'Members that were changed, as they were; of a usage event its row, without prompt and extra; without a member: it was not there';
comment on column ops.corrections.after is 'The same, as they are since; empty: the event was taken out';

-- Both refer to the registry: they go when its row goes, at the end of the retention.
create table analytics.superseded_events (
    correction_id bigint primary key references ops.corrections,
    event_id uuid not null references analytics.usage_event_ids on delete cascade,
    payload_hash bytea
);
create index on analytics.superseded_events (event_id);
comment on table analytics.superseded_events is 'Earlier versions of events that were replaced: whoever sends one again sends a duplicate, and no conflict';
comment on column analytics.superseded_events.correction_id is 'Correction that replaced it, see ops.corrections';
comment on column analytics.superseded_events.event_id is 'Event';
comment on column analytics.superseded_events.payload_hash is 'Its hash, as in analytics.usage_event_ids. Null: erased, and whatever comes with the id is a duplicate';

create table analytics.voided_events (
    event_id uuid primary key references analytics.usage_event_ids on delete cascade,
    correction_id bigint not null references ops.corrections
);
comment on table analytics.voided_events is 'Events that were taken out: their ids stay registered, so that none counts when it is sent again';
comment on column analytics.voided_events.event_id is 'Event';
comment on column analytics.voided_events.correction_id is 'Correction that took it out, see ops.corrections';

alter table ops.event_conflicts
    add column decided_at timestamptz,
    add column outcome text check (outcome in ('accepted', 'dismissed')),
    add column decided_by text,
    add column decision_reason text,
    add check ((decided_at is null) = (outcome is null));
create index on ops.event_conflicts (event_id);
comment on column ops.event_conflicts.decided_at is 'When somebody decided about it; null: open. It stays decided when the same comes again';
comment on column ops.event_conflicts.outcome is 'accepted: it replaced the stored one; dismissed: the stored one is right; null: open';
comment on column ops.event_conflicts.decided_by is 'Who decided; null: open';
comment on column ops.event_conflicts.decision_reason is 'Why, in the words of whoever decided; null: open';

create function ops.why_uncorrectable(moment timestamptz, oldest timestamptz, oldest_by text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select time_zone from ops.calendar);
    usage_date constant date := (moment at time zone zone)::date;
    day_start constant timestamptz := date_trunc('day', moment, zone);
    day_end constant timestamptz := (usage_date + 1)::timestamp at time zone zone;
    -- Days of an earlier time zone have other bounds.
    further constant interval := case
        when exists (select from ops.zone_borders where first_moment > day_start - interval '1 day') then interval '26 hours'
        else interval '0'
    end;
begin
    if day_start < oldest then
        return concat(
            'event_time: expected a day from ', to_char(oldest at time zone zone, 'YYYY-MM-DD'), ' on (', oldest_by, '), came ', usage_date
        );
    end if;
    if ops.is_only_in_file('analytics.usage_events', day_start - further, day_end + further) then
        return concat(
            'event_time: expected a day whose events are in the database, came ', usage_date,
            ', some of which are only in an archive: `usage-pipeline archive restore ', usage_date, '` reads them back'
        );
    end if;
    if ops.is_dropped('analytics.usage_events', day_start - further, day_end + further) then
        return concat(
            'event_time: expected a day whose events are in the database, came ', usage_date,
            ', some of which were dropped at the end of the retention: its roll-ups are all that is left, and stay'
        );
    end if;
    return null;
end
$$;
comment on function ops.why_uncorrectable is 'Why events of the day of a moment cannot be corrected; null: they can. Their roll-ups could not be made again';

create function ops.told_event(event analytics.usage_events) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
-- Not jsonb_strip_nulls: a null within a member says something.
return (
    select coalesce(jsonb_object_agg(key, value), '{}')
    from jsonb_each(to_jsonb(event) - 'event_id' - 'prompt' - 'extra' - 'created_at')
    where value <> 'null'
);
comment on function ops.told_event is 'What ops.corrections keeps of an event: all but what people wrote freely';

-- One correction with its note, with the rights of the owner: whoever has the rights of the HTTP service can neither delete nor
-- change an event without a trace. In a transaction: the caller retries after a missing partition.
create function ops.correct_event(
    target uuid,
    replacement analytics.usage_events,
    new_hash bytea,
    who text,
    why text,
    oldest timestamptz,
    oldest_by text,
    out outcome text,
    out refusal text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select time_zone from ops.calendar);
    is_void constant boolean := replacement.event_id is null;
    is_voided boolean;
    has_moving_archive boolean;
    registered analytics.usage_event_ids;
    stored analytics.usage_events;
    texts analytics.message_archives;
    moments timestamptz[];
    number bigint;
begin
    if why is null or why !~ '\S' or who is null or who !~ '\S' then
        raise exception 'expected a reason and who corrects, came none' using errcode = 'invalid_parameter_value';
    end if;
    if not is_void and (replacement.event_id <> target or new_hash is null) then
        raise exception 'expected the event of the same id and its hash, came others' using errcode = 'invalid_parameter_value';
    end if;
    -- To change a row, TimescaleDB unpacks the compressed batch that has it, and by default refuses many of them.
    perform set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);
    -- No chunk goes away meanwhile (storage/chunks/locks.py). The locks come before the tables' own.
    perform pg_advisory_xact_lock_shared(hashtext('chunks'), hashtext(name))
    from unnest(array['analytics.usage_events', 'analytics.message_archives']) as name;
    outcome := 'refused';
    select *
    into registered
    from analytics.usage_event_ids
    where event_id = target
    for no key update;
    if not found then
        refusal := concat('event_id: expected the id of a stored event, came ', target);
        return;
    end if;
    is_voided := exists (select from analytics.voided_events where event_id = target);
    if (is_void and is_voided)
        or (not is_void and not is_voided and registered.payload_hash = new_hash and registered.event_time = replacement.event_time)
    then
        outcome := 'already';
        return;
    end if;
    if not is_void and registered.payload_hash is null then
        refusal := 'event_id: expected an event whose user was not erased, came one that can only be taken out';
        return;
    end if;
    moments := array_remove(array[case when not is_voided then registered.event_time end, replacement.event_time], null);
    select ops.why_uncorrectable(moment, oldest, oldest_by)
    into refusal
    from unnest(moments) as moment
    order by 1 nulls last
    limit 1;
    if refusal is not null then
        return;
    end if;
    has_moving_archive := replacement.event_time <> registered.event_time
        and exists (select from analytics.message_archive_ids where event_id = target and payload_hash is not null);
    if has_moving_archive and not exists (select from analytics.message_archives where event_id = target) then
        refusal := 'event_time: expected the time that is stored, since the message archive of the event is only in an archive file, came another';
        return;
    end if;
    if not is_voided then
        delete from analytics.usage_events
        where event_id = target
          and event_time = registered.event_time
        returning * into stored;
        if not found then
            refusal := 'event_id: expected an event whose row is in analytics.usage_events, came one without';
            return;
        end if;
    end if;
    if has_moving_archive then
        -- Both leave together at the end.
        delete from analytics.message_archives
        where event_id = target
        returning * into texts;
        texts.event_time := replacement.event_time;
        insert into analytics.message_archives
        select (texts).*;
    end if;
    if not is_void then
        replacement.created_at := coalesce(stored.created_at, now());
        insert into analytics.usage_events
        select (replacement).*;
    end if;
    insert into ops.corrections (corrected_by, reason, subject, before, after, event_id)
    values (who, why, concat('event ', target), ops.told_event(stored), ops.told_event(replacement), target)
    returning correction_id into number;
    if is_void then
        insert into analytics.voided_events (event_id, correction_id)
        values (target, number);
    else
        delete from analytics.voided_events
        where event_id = target;
        if registered.payload_hash <> new_hash then
            insert into analytics.superseded_events (correction_id, event_id, payload_hash)
            values (number, target, registered.payload_hash);
        end if;
        update analytics.usage_event_ids
        set event_time = replacement.event_time,
            payload_hash = new_hash
        where event_id = target;
        -- What was kept out is what is stored now.
        update ops.event_conflicts
        set decided_at = clock_timestamp(),
            outcome = 'accepted',
            decided_by = who,
            decision_reason = why
        where kind = 'events'
          and event_id = target
          and other_hash = new_hash
          and decided_at is null;
    end if;
    insert into ops.touched_windows (grain, window_start)
    select distinct grain, date_trunc(grain, moment, zone)
    from unnest(moments) as moment
    cross join (values ('hour'), ('day')) as grains (grain);
    outcome := 'corrected';
end
$$;
revoke execute on function ops.correct_event from public;
comment on function ops.correct_event is 'Takes a usage event out (without a replacement), or replaces it, with the rights of the owner, and notes it in ops.corrections: who, why, before and after. The answer is corrected, already, or refused with a reason';

create table ops.counter_adjustments (
    correction_id bigint primary key references ops.corrections,
    family text not null check (family in ('api_key', 'provider', 'token', 'merchant')),
    usage_date date not null,
    field text not null,
    amount bigint not null check (amount <> 0)
);
create index on ops.counter_adjustments (usage_date);
comment on table ops.counter_adjustments is 'Counters that somebody put up or down by name (`counters adjust`); who and why is in ops.corrections';
comment on column ops.counter_adjustments.correction_id is 'Correction, see ops.corrections';
comment on column ops.counter_adjustments.family is 'api_key, provider, token or merchant';
comment on column ops.counter_adjustments.usage_date is 'Day that it counts for, in USAGE_TIMEZONE';
comment on column ops.counter_adjustments.field is 'Count that was changed; of a merchant its metric';
comment on column ops.counter_adjustments.amount is 'By how much; below 0: down';
comment on column raw.api_key_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped; correction-N: see ops.counter_adjustments';
comment on column raw.provider_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped; correction-N: see ops.counter_adjustments';
comment on column raw.token_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped; correction-N: see ops.counter_adjustments';

-- What somebody took off a merchant's day is not in Redis: the counter there goes on.
alter table usage.merchant_usage drop constraint merchant_usage_reset_offset_check;
comment on column usage.merchant_usage.reset_offset is 'What counts beside the counter in Redis: what was counted before Redis lost it (`counters accept-reset`), and what somebody added or took off (`counters adjust`)';
comment on column usage.merchant_usage.metric_value is 'Count of that day: reset_offset plus the counter in Redis; never lowered by an aggregation, only by `counters accept-correction` and `counters adjust`';
alter table ops.reconciliation drop constraint if exists reconciliation_corrected_check;
comment on column ops.reconciliation.corrected is 'By how much accepted corrections and adjustments lowered what is stored; below 0: by how much adjustments raised it beyond what was recorded';
