-- Notes that a channel has got a report.
insert into ops.report_deliveries (grain, window_start, channel, sent_at, as_of, cost_usd)
values (%(grain)s, %(window_start)s, %(channel)s, now(), %(as_of)s, %(cost_usd)s)
on conflict (grain, window_start, channel) do update
set sent_at = excluded.sent_at,
    as_of = excluded.as_of,
    cost_usd = excluded.cost_usd
