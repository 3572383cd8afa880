-- The last look at a family's day; since when something is missing stays until nothing is.
insert into ops.reconciliation as t (
    family, usage_date, measure, recorded, stored, live, claimed, dead, duplicates, carried, difference, missing, missing_since,
    forgotten, counted_twice, corrected, discarded
)
values (
    %(family)s, %(usage_date)s, %(measure)s, %(recorded)s, %(stored)s, %(live)s, %(claimed)s, %(dead)s, %(duplicates)s,
    %(carried)s, %(difference)s, %(missing)s, case when %(missing)s > 0 then clock_timestamp() end,
    %(forgotten)s, %(counted_twice)s, %(corrected)s, %(discarded)s
)
on conflict (family, usage_date) do update
set measure = excluded.measure,
    recorded = excluded.recorded,
    stored = excluded.stored,
    live = excluded.live,
    claimed = excluded.claimed,
    dead = excluded.dead,
    duplicates = excluded.duplicates,
    carried = excluded.carried,
    difference = excluded.difference,
    missing = excluded.missing,
    forgotten = excluded.forgotten,
    counted_twice = excluded.counted_twice,
    corrected = excluded.corrected,
    discarded = excluded.discarded,
    missing_since = case when excluded.missing > 0 then coalesce(t.missing_since, excluded.missing_since) end,
    reconciled_at = clock_timestamp();
