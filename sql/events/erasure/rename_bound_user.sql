-- Gives the user of a bound token the pseudonym. A token that is bound to no other user ends: nobody is there to use it.
update usage.api_access_tokens
set users = array_replace(users, %(user_id)s, %(pseudonym)s),
    revoked_at = case
        when array_remove(users, %(user_id)s) = '{}' then coalesce(revoked_at, now())
        else revoked_at
    end,
    updated_at = now()
where token_prefix = %(token_prefix)s
  and %(user_id)s = any(users);
