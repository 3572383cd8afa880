-- Usage per window of one grain, team, service, provider and model: the tables of hours, days, weeks and months are this one.
create table {table} (
    {window} {type} not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    requests bigint not null,
    errors bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    total_tokens bigint not null,
    latency_p50_ms double precision,
    latency_p95_ms double precision,
    latency_p99_ms double precision,
    distinct_users bigint not null,
    cost_usd numeric,
    unpriced_requests bigint not null,
    updated_at timestamptz not null default now(),
    primary key ({window}, team, service, provider, model)
);
comment on column {table}.team is 'Team that it is charged to';
comment on column {table}.service is 'Service that called the model';
comment on column {table}.provider is 'Provider of the model';
comment on column {table}.model is 'Model, as the client named it';
comment on column {table}.requests is 'Requests, all outcomes';
comment on column {table}.errors is 'Requests that count as errors (analytics.is_error)';
comment on column {table}.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column {table}.output_tokens is 'Generated tokens, as far as the clients said';
comment on column {table}.total_tokens is 'All tokens';
comment on column {table}.latency_p50_ms is 'Median of latency_ms (percentile_cont over all requests that have one)';
comment on column {table}.latency_p95_ms is '95th percentile of latency_ms (percentile_cont over all requests that have one)';
comment on column {table}.latency_p99_ms is '99th percentile of latency_ms (percentile_cont over all requests that have one)';
comment on column {table}.distinct_users is 'Users among the requests, each once';
comment on column {table}.cost_usd is 'US dollars by the price version of the day (analytics.day_prices); null when no request could be priced';
comment on column {table}.unpriced_requests is 'Requests that are not in cost_usd: model without a price, or no split into input and output tokens';
comment on column {table}.updated_at is 'When this row last changed';
