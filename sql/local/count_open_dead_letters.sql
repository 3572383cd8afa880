-- Open dead letters per family.
select family, count(*)
from ops.dead_letters
where replayed_at is null
group by family;
