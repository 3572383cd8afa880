-- Sign-in of people: a session of a browser stands for a token. What it may see, its quota and its uses are those of the token,
-- and it ends with it.

alter table usage.api_access_tokens
    add column sign_in text check (sign_in in ('invite', 'proxy'));
comment on column usage.api_access_tokens.sign_in is 'How the person signs in for whom it was made, and nobody has its secret: invite: by a link that is good once; proxy: a proxy names the person (TRUSTED_USER_HEADER). Null: a token that is sent';
-- Whom a proxy names is one person.
create unique index api_access_tokens_proxy_idx on usage.api_access_tokens (name)
    where sign_in = 'proxy' and revoked_at is null;

create table usage.invitations (
    invitation_hash text primary key check (invitation_hash ~ '^[0-9a-f]{64}$'),
    token_id text not null references usage.api_access_tokens on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    accepted_at timestamptz
);
create index on usage.invitations (token_id);
comment on table usage.invitations is 'Links of `usage-pipeline invite`: each opens one session, once';
comment on column usage.invitations.invitation_hash is 'SHA-256 of the code in the link, in hexadecimal digits. The code itself is stored nowhere';
comment on column usage.invitations.token_id is 'Token that the session will stand for, see usage.api_access_tokens';
comment on column usage.invitations.created_at is 'When it was made';
comment on column usage.invitations.expires_at is 'From when on the link is no longer good';
comment on column usage.invitations.accepted_at is 'When somebody used it; null: nobody has';

create table usage.sessions (
    session_hash text primary key check (session_hash ~ '^[0-9a-f]{64}$'),
    token_id text not null references usage.api_access_tokens on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index on usage.sessions (token_id);
comment on table usage.sessions is 'Browsers that are signed in. To sign out deletes the row';
comment on column usage.sessions.session_hash is 'SHA-256 of the cookie, in hexadecimal digits. The cookie itself is stored nowhere';
comment on column usage.sessions.token_id is 'Token that it stands for, see usage.api_access_tokens';
comment on column usage.sessions.created_at is 'When somebody signed in';
comment on column usage.sessions.expires_at is 'When it ends, if its token does not end before';

-- These three run with the rights of the owner: the HTTP service makes no token, changes none, and reads no invitation.
create function ops.accept_invitation(code_hash text, new_session_hash text) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    invited text;
    ends_at timestamptz;
begin
    -- Of two at the same moment, the second waits for the row, and then finds it used.
    update usage.invitations as invitation
    set accepted_at = now()
    from usage.api_access_tokens as token
    where invitation.invitation_hash = code_hash
      and invitation.accepted_at is null
      and invitation.expires_at > now()
      and token.token_id = invitation.token_id
      and token.revoked_at is null
      and (token.expires_at is null or token.expires_at > now())
    returning token.token_id, coalesce(token.expires_at, now() + interval '30 days')
    into invited, ends_at;
    if not found then
        return (select 'over' from usage.invitations where invitation_hash = code_hash);
    end if;
    insert into usage.sessions (session_hash, token_id, expires_at)
    values (new_session_hash, invited, ends_at);
    return 'accepted';
end
$$;
revoke execute on function ops.accept_invitation from public;
comment on function ops.accept_invitation is 'Turns an invitation into a session, once. The answer is accepted, or over: it was used, is too old, or was revoked; null: there is no such invitation';

create function ops.open_session(target text, secret_hash text, new_session_hash text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The lock: two at once do not both find room for the last one.
    perform
    from usage.api_access_tokens
    where token_id = target
      and token_hash = secret_hash
      and sign_in is null
      and revoked_at is null
      and (expires_at is null or expires_at > now())
    for no key update;
    if not found then
        return false;
    end if;
    -- A hundred sessions of a token: whoever signs in again and again fills no table. The oldest end.
    delete from usage.sessions
    where token_id = target
      and (
        expires_at <= now()
        or session_hash in (
            select session_hash
            from usage.sessions
            where token_id = target
            order by created_at desc, session_hash
            offset 99
        )
      );
    insert into usage.sessions (session_hash, token_id, expires_at)
    select new_session_hash, token_id, least(expires_at, now() + interval '30 days')
    from usage.api_access_tokens
    where token_id = target;
    return true;
end
$$;
revoke execute on function ops.open_session from public;
comment on function ops.open_session is 'Opens a session of 30 days at most for a token that is valid and whose secret has this hash; false: there is none. Not for those of people, whose secret nobody has';

create function ops.close_session(closed_hash text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    closed text;
begin
    delete from usage.sessions
    where session_hash = closed_hash
    returning token_id into closed;
    if not found then
        return false;
    end if;
    -- The link was good once, so nobody can come in by this token any more: it shall not look as if somebody could.
    update usage.api_access_tokens
    set revoked_at = now(),
        updated_at = now()
    where token_id = closed
      and sign_in = 'invite'
      and revoked_at is null;
    return true;
end
$$;
revoke execute on function ops.close_session from public;
comment on function ops.close_session is 'Ends a session; one of an invitation ends its token, too. False: there is no such session';
