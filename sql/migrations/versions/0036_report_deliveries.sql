-- A few rows a month: they stay, and say what was told to whom.
create table ops.report_deliveries (
    grain text not null check (grain in ('week', 'month')),
    window_start date not null,
    channel text not null,
    sent_at timestamptz not null,
    as_of timestamptz not null,
    cost_usd numeric,
    primary key (grain, window_start, channel)
);
comment on table ops.report_deliveries is 'Reports that were sent (SEND_REPORTS): one row per report and channel of ALERT_URLS that has got it';
comment on column ops.report_deliveries.grain is 'week or month';
comment on column ops.report_deliveries.window_start is 'First day of the week or month';
comment on column ops.report_deliveries.channel is 'Channel by its place in ALERT_URLS and its kind, such as 1 (slack)';
comment on column ops.report_deliveries.sent_at is 'When it was sent last';
comment on column ops.report_deliveries.as_of is 'Data time of the report: all that was stored before is in it';
comment on column ops.report_deliveries.cost_usd is 'Cost of the period, in US dollars, as the report says; null when none is known';
