-- Notes odometers as they read now. One that reads less than before has forgotten the rest: Redis lost data. The caller holds a lock
-- since before it read them, so that no older reading comes later. An odometer that was noted and is gone reads 0.
insert into ops.odometers as t (family, usage_date, counted)
select seen.family, seen.usage_date, seen.counted
from unnest(%(families)s::text[], %(days)s::date[], %(counts)s::numeric[]) as seen (family, usage_date, counted)
left join ops.odometers as known using (family, usage_date)
where seen.counted is distinct from coalesce(known.counted, 0)
order by seen.family, seen.usage_date
on conflict (family, usage_date) do update
set counted = excluded.counted,
    forgotten = t.forgotten + greatest(t.counted - excluded.counted, 0),
    fallen_at = case when excluded.counted < t.counted then clock_timestamp() else t.fallen_at end,
    surplus = case
        when excluded.counted < t.counted and t.surplus is null then coalesce(
            (
                select greatest(-r.difference, 0)
                from ops.reconciliation as r
                where r.family = t.family
                  and r.usage_date = t.usage_date
            ),
            0
        )
        else t.surplus
    end,
    seen_at = clock_timestamp();
