-- TimescaleDB: its version in this database, the one that the server offers, and its licence by build and configuration.
-- Where it is not in this database, the licence is known only if somebody configured it.
select
    (select extversion from pg_extension where extname = 'timescaledb'),
    (select default_version from pg_available_extensions where name = 'timescaledb'),
    current_setting('timescaledb.license', true)
