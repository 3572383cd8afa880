-- Families with open dead letters, how many (of very many only so many in each family), and why the newest was refused. Families
-- are looked for one after the other, each by one probe of the index: many of one must not hide another, whose alert would end.
-- The reason of a request event begins with the item itself: its user may be erased, and alerts and their channels keep copies.
with recursive families as (
    (
        select family
        from ops.dead_letters
        where replayed_at is null
          and discarded_at is null
        order by family
        limit 1
    )
    union all
    select (
        select next.family
        from ops.dead_letters as next
        where next.replayed_at is null
          and next.discarded_at is null
          and next.family > families.family
        order by next.family
        limit 1
    )
    from families
    where families.family is not null
)
select
    families.family,
    counted.open as count,
    left(
        regexp_replace(newest.reason, '(item: expected a request event as JSON, came ).*', '\1one with a fault'),
        %(length)s
    ) as newest_reason
from families
cross join lateral (
    select count(*) as open
    from (
        select
        from ops.dead_letters as letter
        where letter.family = families.family
          and letter.replayed_at is null
          and letter.discarded_at is null
        limit %(most)s
    ) as letters
) as counted
cross join lateral (
    select letter.reason
    from ops.dead_letters as letter
    where letter.family = families.family
      and letter.replayed_at is null
      and letter.discarded_at is null
    order by letter.created_at desc, letter.dead_letter_id desc
    limit 1
) as newest
where families.family is not null
order by families.family;
