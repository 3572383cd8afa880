#!/bin/sh
# Two databases, and roles of which none is a superuser (docs/operations.md). The image runs it when PostgreSQL starts on an empty
# data folder. On a server of your own an administrator runs it, with psql 15 or newer. It may be run again, after an upgrade for
# example: it makes what is missing, and sets the passwords.
set -eu

psql --set ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv usage_password USAGE_DB_PASSWORD
\getenv api_password USAGE_API_DB_PASSWORD
\getenv drain_password USAGE_DRAIN_DB_PASSWORD
\getenv dagster_password DAGSTER_DB_PASSWORD
-- usage_pipeline owns its database, and grants to the others what they need there: that is what `usage-pipeline migrate` does.
select format('create role %I nologin', name)
from unnest(array['usage_pipeline', 'usage_api', 'usage_drain', 'usage_analyst', 'dagster']) as name
where not exists (select from pg_roles where rolname = name) \gexec
alter role usage_pipeline login password :'usage_password';
alter role usage_api login password :'api_password';
alter role usage_drain login password :'drain_password';
alter role dagster login password :'dagster_password';
-- Text sorts by code point: the same order on every machine, and after every upgrade of its libraries.
select current_setting('server_version_num')::int >= 170000 as has_builtin_locales \gset
\if :has_builtin_locales
    \set locale 'locale \'C\' locale_provider builtin builtin_locale \'C.UTF-8\''
\else
    \set locale 'lc_collate \'C\' lc_ctype \'C.UTF-8\''
\endif
select 'create database usage owner usage_pipeline template template0 encoding ''utf8'' ' || :'locale'
where not exists (select from pg_database where datname = 'usage') \gexec
select 'create database dagster owner dagster'
where not exists (select from pg_database where datname = 'dagster') \gexec
-- Who has no business in a database does not get in: all of them share one table of locks, which a single session can fill.
revoke connect, temporary on database usage, dagster, postgres, template1 from public;
grant connect on database usage to usage_api, usage_drain, usage_analyst;
\connect usage
select 'create extension if not exists timescaledb' from pg_available_extensions where name = 'timescaledb' \gexec
-- By these, anybody who is in could stop all others or fill the disk. Only a superuser may close them (docs/analysts.md).
revoke create on schema public from public;
select format('revoke execute on function %s from public', oid::regprocedure)
from pg_proc
where pronamespace = 'pg_catalog'::regnamespace
  and proname ~ '^(pg_(try_)?advisory_(xact_)?lock|lo_|loread$|lowrite$|pg_logical_emit_message$)' \gexec
select format('grant execute on function %s to usage_pipeline, usage_api, usage_drain', oid::regprocedure)
from pg_proc
where pronamespace = 'pg_catalog'::regnamespace
  and proname ~ '^pg_(try_)?advisory_(xact_)?lock' \gexec
SQL
