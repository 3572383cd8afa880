-- Tokens that are bound to teams, services and users (contracts §10): who has one sends and sees only theirs.

alter table usage.api_access_tokens
    add column teams text[] not null default '{}',
    add column services text[] not null default '{}',
    add column users text[] not null default '{}',
    add column binding_id uuid,
    add constraint api_access_tokens_binding_check
        check ((binding_id is null) = (cardinality(teams) + cardinality(services) + cardinality(users) = 0));
comment on column usage.api_access_tokens.teams is 'Teams that it is bound to; empty: all. An event that names none gets the first';
comment on column usage.api_access_tokens.services is 'Services that it is bound to; empty: all. An event that names none gets the first';
comment on column usage.api_access_tokens.users is 'Users that it is bound to; empty: all. An event that names none gets the first';
comment on column usage.api_access_tokens.binding_id is 'Random id that all tokens with the same teams, services and users share; null: not bound. Ids of events that are taken by others are derived from it';

alter table analytics.usage_event_ids add column binding_id uuid;
comment on column analytics.usage_event_ids.binding_id is 'What the token was bound to that sent it, see usage.api_access_tokens; null: it was not bound, or it was no token';

create function ops.is_within(
    teams text[],
    services text[],
    users text[],
    team text,
    service text,
    user_id text
) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return coalesce(
    (cardinality(teams) = 0 or team = any(teams))
    and (cardinality(services) = 0 or service = any(services))
    and (cardinality(users) = 0 or user_id = any(users)),
    false
);
comment on function ops.is_within is 'Whether who is bound to these teams, services and users may see an event of this team, service and user; empty: all';

-- With the rights of the owner: the HTTP service reads no row of an event. What is only in an archive file belongs to whoever
-- sent it, by its binding.
create function ops.is_foreign(
    target uuid,
    sent_hash bytea,
    binding uuid,
    teams text[],
    services text[],
    users text[]
) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    registered analytics.usage_event_ids;
    is_sender boolean;
    is_visible boolean;
begin
    select *
    into registered
    from analytics.usage_event_ids
    where event_id = target;
    if not found then
        return null;
    end if;
    is_sender := coalesce(registered.binding_id = binding, false);
    if sent_hash is not null and (is_sender or coalesce(registered.payload_hash = sent_hash, false)) then
        -- A hash has the team, the service and the user in it.
        return false;
    end if;
    if sent_hash is not null and exists (
        select
        from analytics.superseded_events as superseded
        where superseded.event_id = target
          and superseded.payload_hash = sent_hash
    ) then
        return false;
    end if;
    select ops.is_within(teams, services, users, event.team, event.service, event.user_id)
    into is_visible
    from analytics.usage_events as event
    where event.event_id = target
      and event.event_time = registered.event_time;
    if not found then
        select ops.is_within(
            teams, services, users, correction.before ->> 'team', correction.before ->> 'service', correction.before ->> 'user_id'
        )
        into is_visible
        from analytics.voided_events as voided
        join ops.corrections as correction on correction.correction_id = voided.correction_id
        where voided.event_id = target;
    end if;
    return not coalesce(is_visible, is_sender);
end
$$;
revoke execute on function ops.is_foreign from public;
comment on function ops.is_foreign is 'Whether the id of an event is taken by a row that a binding may not see; null: it is free. With the hash of what was sent: whoever sent the same, or sent it under that binding, knows it anyway';

-- The same as ops.correct_event for who is bound. An event of others is as unknown as one that is not there.
create function ops.correct_bound_event(
    target uuid,
    replacement analytics.usage_events,
    new_hash bytea,
    who text,
    why text,
    oldest timestamptz,
    oldest_by text,
    binding uuid,
    teams text[],
    services text[],
    users text[],
    out outcome text,
    out refusal text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- As in ops.correct_event, and in the same order. The lock on the id: nobody gives the event to others meanwhile.
    perform pg_advisory_xact_lock_shared(hashtext('chunks'), hashtext(name))
    from unnest(array['analytics.usage_events', 'analytics.message_archives']) as name;
    perform
    from analytics.usage_event_ids
    where event_id = target
    for no key update;
    if coalesce(ops.is_foreign(target, null, binding, teams, services, users), true) then
        outcome := 'refused';
        refusal := concat('event_id: expected the id of a stored event, came ', target);
        return;
    end if;
    if replacement.event_id is not null
        and not ops.is_within(teams, services, users, replacement.team, replacement.service, replacement.user_id)
    then
        outcome := 'refused';
        refusal := 'team, service, user_id: expected those that this token is bound to, came others';
        return;
    end if;
    select corrected.outcome, corrected.refusal
    into outcome, refusal
    from ops.correct_event(target, replacement, new_hash, who, why, oldest, oldest_by) as corrected;
end
$$;
revoke execute on function ops.correct_bound_event from public;
comment on function ops.correct_bound_event is 'Corrects a usage event as ops.correct_event does, if a binding may see it and what takes its place; else it is refused like one that is not stored';
