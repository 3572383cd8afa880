-- Stores posts as they were fetched: a success replaces what is older or a fallback, a fallback never replaces a success.
insert into app.external_posts (id, user_id, title, body, fetched_at, is_fallback)
select
    fetched.id,
    fetched.user_id,
    fetched.title,
    fetched.body,
    %(fetched_at)s,
    fetched.is_fallback
from unnest(%(ids)s::text[], %(user_ids)s::text[], %(titles)s::text[], %(bodies)s::text[], %(are_fallbacks)s::boolean[])
    as fetched (id, user_id, title, body, is_fallback)
-- In one order, so that two who store the same posts wait for each other and do not lock each other up.
order by fetched.id
on conflict (id) do update
set
    user_id = excluded.user_id,
    title = excluded.title,
    body = excluded.body,
    fetched_at = excluded.fetched_at,
    is_fallback = excluded.is_fallback
where external_posts.is_fallback
   or (not excluded.is_fallback and external_posts.fetched_at <= excluded.fetched_at)
returning external_posts.id;
