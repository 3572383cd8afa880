-- Dead letters of each family that are open, and that were discarded; of very many only so many of each, since whoever scrapes
-- metrics must not cost the database much.
select
    known.family,
    waiting.letters as open,
    decided.letters as discarded
from unnest(%(families)s::text[]) as known (family)
cross join lateral (
    select count(*) as letters
    from (
        select
        from ops.dead_letters as letter
        where letter.family = known.family
          and letter.replayed_at is null
          and letter.discarded_at is null
        limit %(most)s
    ) as counted
) as waiting
cross join lateral (
    select count(*) as letters
    from (
        select
        from ops.dead_letters as letter
        where letter.family = known.family
          and letter.replayed_at is null
          and letter.discarded_at is not null
        limit %(most)s
    ) as counted
) as decided;
