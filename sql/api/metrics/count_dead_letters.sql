-- Open dead letters per family; of very many it counts only so many, since whoever scrapes must not cost the database much.
select
    letters.family,
    count(*) as open
from (
    select family
    from ops.dead_letters
    where replayed_at is null
    limit %(most)s
) as letters
group by letters.family
order by letters.family;
