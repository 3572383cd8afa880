-- What the server is: its version, the size of the database, whether it takes writes, and the days of TimescaleDB if it is there.
select
    current_setting('server_version') as version,
    pg_database_size(current_database()) as bytes,
    pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean as is_read_only,
    (select extversion from pg_extension where extname = 'timescaledb') as timescaledb;
