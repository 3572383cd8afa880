-- Families with open dead letters, how many (of very many only so many), and why the newest was refused.
select
    counted.family,
    counted.open as count,
    (
        select left(newest.reason, %(length)s)
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
