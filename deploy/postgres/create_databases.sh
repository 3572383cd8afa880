#!/bin/sh
# Runs once, when PostgreSQL starts on an empty data folder: two databases with an owner each, neither a superuser.
set -eu

psql --set ON_ERROR_STOP=1 --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv usage_password USAGE_DB_PASSWORD
\getenv dagster_password DAGSTER_DB_PASSWORD
create role usage_pipeline login password :'usage_password';
create role dagster login password :'dagster_password';
-- Which usage_pipeline grants the views of reporting (docs/analysts.md), but may not create.
create role usage_analyst nologin;
-- Text sorts by code point: the same order on every machine, and after every upgrade of its libraries.
create database usage owner usage_pipeline template template0
    encoding 'utf8' locale 'C' locale_provider builtin builtin_locale 'C.UTF-8';
create database dagster owner dagster;
revoke connect, temporary on database usage from public;
revoke connect, temporary on database dagster from public;
grant connect on database usage to usage_analyst;
\connect usage
select 'create extension if not exists timescaledb' from pg_available_extensions where name = 'timescaledb' \gexec
SQL
