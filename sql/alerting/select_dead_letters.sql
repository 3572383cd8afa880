-- Families with open dead letters, how many (of very many only so many), and why the newest was refused.
-- The reason of a request event begins with the item itself: its user may be erased, and alerts and their channels keep copies.
select
    counted.family,
    counted.open as count,
    (
        select left(
            regexp_replace(newest.reason, '(item: expected a request event as JSON, came ).*', '\1one with a fault'),
            %(length)s
        )
        from ops.dead_letters as newest
        where newest.family = counted.family
          and newest.replayed_at is null
        order by newest.created_at desc, newest.dead_letter_id desc
        limit 1
    ) as newest_reason
from (
    select letters.family, count(*) as open
    from (
        select family
        from ops.dead_letters
        where replayed_at is null
        limit %(most)s
    ) as letters
    group by letters.family
) as counted
order by counted.family;
