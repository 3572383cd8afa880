#!/bin/sh
# Two databases, and roles of which none is a superuser (docs/operations.md). The image runs it when PostgreSQL starts on an empty
# data folder. On a server of your own an administrator runs it: a superuser, or on a managed server a role with CREATEDB and
# CREATEROLE, which then becomes a member of the owners. It may be run again, after an upgrade or a failure for example: it makes
# what is missing, and sets the passwords.
set -eu
: "${USAGE_DB_PASSWORD:?}" "${USAGE_API_DB_PASSWORD:?}" "${USAGE_DRAIN_DB_PASSWORD:?}" "${DAGSTER_DB_PASSWORD:?}"

psql --set ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname "${PGDATABASE:-postgres}" <<'SQL'
-- Not \getenv, which psql 14 does not have.
\set usage_password `printenv USAGE_DB_PASSWORD`
\set api_password `printenv USAGE_API_DB_PASSWORD`
\set drain_password `printenv USAGE_DRAIN_DB_PASSWORD`
\set dagster_password `printenv DAGSTER_DB_PASSWORD`
set client_min_messages = warning;
select rolsuper as is_superuser from pg_roles where rolname = current_user \gset
-- usage_pipeline owns its database, and grants to the others what they need there: that is what `usage-pipeline migrate` does.
select format('create role %I nologin', name)
from unnest(array['usage_pipeline', 'usage_api', 'usage_drain', 'usage_analyst', 'dagster']) as name
where not exists (select from pg_roles where rolname = name) \gexec
alter role usage_pipeline login password :'usage_password';
alter role usage_api login password :'api_password';
alter role usage_drain login password :'drain_password';
alter role dagster login password :'dagster_password';
\if :is_superuser
\else
    -- Only a member of a role makes databases that it owns.
    select format('grant usage_pipeline, dagster to %I', current_user) \gexec
\endif
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
select format('revoke connect, temporary on database %I from public', datname)
from pg_database
where datname in ('usage', 'dagster', 'postgres', 'template1')
  and pg_has_role(current_user, datdba, 'usage') \gexec
grant connect on database usage to usage_api, usage_drain, usage_analyst;
\connect usage
set client_min_messages = warning;
-- If it cannot be made, tables get native partitions. Where it is not preloaded, some versions would end this session.
\set ON_ERROR_STOP 0
select 'create extension if not exists timescaledb'
from pg_available_extensions
where name = 'timescaledb'
  and exists (select from pg_settings where name = 'shared_preload_libraries' and setting like '%timescaledb%') \gexec
\set ON_ERROR_STOP 1
-- By these, anybody who is in could stop all others or fill the disk. Only a superuser may close them (docs/analysts.md).
select 'revoke create on schema public from public'
from pg_namespace
where nspname = 'public'
  and pg_has_role(current_user, nspowner, 'usage') \gexec
\if :is_superuser
    select format('revoke execute on function %s from public', oid::regprocedure)
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and proname ~ '^(pg_(try_)?advisory_(xact_)?lock|lo_|loread$|lowrite$|pg_logical_emit_message$)' \gexec
    select format('grant execute on function %s to usage_pipeline, usage_api, usage_drain', oid::regprocedure)
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and proname ~ '^pg_(try_)?advisory_(xact_)?lock' \gexec
\else
    \echo 'All is made. What only a superuser may close stays open: see "Close the doors first" in docs/analysts.md.'
\endif
SQL
