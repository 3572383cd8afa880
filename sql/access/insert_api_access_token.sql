-- A new token; none when its prefix is taken. One that is bound shares the binding of those with the same values, in any order.
insert into usage.api_access_tokens (
    token_id, token_prefix, token_hash, name, scopes, expires_at, quota, sign_in, teams, services, users, binding_id
)
select
    %(token_id)s,
    %(token_prefix)s,
    %(token_hash)s,
    %(name)s,
    %(scopes)s,
    %(expires_at)s,
    %(quota)s,
    %(sign_in)s,
    teams,
    services,
    users,
    case
        when cardinality(teams || services || users) > 0
        then coalesce(
            (
                select known.binding_id
                from usage.api_access_tokens as known
                where known.binding_id is not null
                  and known.teams @> bound.teams and known.teams <@ bound.teams
                  and known.services @> bound.services and known.services <@ bound.services
                  and known.users @> bound.users and known.users <@ bound.users
                order by known.created_at
                limit 1
            ),
            gen_random_uuid()
        )
    end
from (
    select %(teams)s::text[] as teams, %(services)s::text[] as services, %(users)s::text[] as users
) as bound
on conflict (token_prefix) do nothing
returning token_id;
