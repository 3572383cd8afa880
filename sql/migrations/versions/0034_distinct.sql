-- What does not add up over the rows of weeks and months. Nobody reads fractions of a tenth of a millisecond.
    round(latency_p50_ms::numeric, 1)::float8 as latency_p50_ms,
    round(latency_p95_ms::numeric, 1)::float8 as latency_p95_ms,
    round(latency_p99_ms::numeric, 1)::float8 as latency_p99_ms,
    distinct_users,
