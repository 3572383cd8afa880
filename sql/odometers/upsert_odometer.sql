-- Notes an odometer as it reads now. The caller holds a lock since before it read it, so that no older reading comes later. When it
-- first forgets something, what was stored beyond what was recorded was written by others.
insert into ops.odometers as t (family, usage_date, counted, forgotten, fallen_at, life, mark, problem)
values (
    %(family)s, %(usage_date)s, %(counted)s, %(forgotten)s, case when %(forgotten)s > 0 then clock_timestamp() end,
    %(life)s, %(mark)s, %(problem)s
)
on conflict (family, usage_date) do update
set counted = excluded.counted,
    forgotten = excluded.forgotten,
    life = excluded.life,
    mark = excluded.mark,
    problem = excluded.problem,
    change = coalesce(%(change)s, t.change),
    changed_at = case when %(change)s::text is not null then clock_timestamp() else t.changed_at end,
    fallen_at = case
        when excluded.forgotten = 0 then null
        when excluded.forgotten > t.forgotten then clock_timestamp()
        else t.fallen_at
    end,
    surplus = case
        when excluded.forgotten > t.forgotten and t.surplus is null then coalesce(
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
