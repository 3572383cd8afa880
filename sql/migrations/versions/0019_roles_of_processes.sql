-- Roles that store rows own no table, and yet a row may need a partition that is not there: this function makes it.

create or replace function ops.create_partition(parent_table text, first_moment timestamptz, next_moment timestamptz) returns text
language plpgsql security definer
set search_path to pg_catalog, pg_temp
set timezone to 'UTC'
as $$
declare
    parent regclass := to_regclass(parent_table);
    is_by_day boolean;
    partition_name text;
    full_name text;
begin
    if parent is null
        or not exists (
            select
            from pg_class
            where oid = parent
              and relkind = 'p'
              and relnamespace::regnamespace::text in ('raw', 'analytics')
        )
    then
        raise exception 'expected a partitioned table of raw or analytics, came %%', parent_table using errcode = 'wrong_object_type';
    end if;
    -- The most that CHUNK_TIME_INTERVAL_HOURS can be. A wider one would take the rows of days that it should not have.
    if first_moment is null or next_moment is null or not isfinite(first_moment)
        or next_moment <= first_moment or next_moment > first_moment + interval '48 hours'
    then
        raise exception 'expected a span of at most 48 hours, came %% to %%', first_moment, next_moment
            using errcode = 'invalid_parameter_value';
    end if;
    select atttypid = 'date'::regtype
    into is_by_day
    from pg_partitioned_table
    join pg_attribute on attrelid = partrelid and attnum = partattrs[0]
    where partrelid = parent;
    select relname || to_char(first_moment, case when is_by_day then '_YYYYMMDD' else '_YYYYMMDDHH24' end)
    into partition_name
    from pg_class
    where oid = parent;
    select format('%%I.%%I', nspname, partition_name)
    into full_name
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    where pg_class.oid = parent;
    -- Created apart and then attached: ATTACH lets readers and writers of the others go on, CREATE ... PARTITION OF does not.
    execute format(
        'create table if not exists %%s (like %%s including defaults including constraints including comments)',
        full_name, parent
    );
    -- As dates where days are: the whole moment would be read as one.
    if is_by_day then
        execute format(
            'alter table %%s attach partition %%s for values from (%%L) to (%%L)',
            parent, full_name, first_moment::date, next_moment::date
        );
    else
        execute format('alter table %%s attach partition %%s for values from (%%L) to (%%L)', parent, full_name, first_moment, next_moment);
    end if;
    return full_name;
end
$$;
revoke execute on function ops.create_partition from public;
comment on function ops.create_partition is 'Makes the partition of a table for a half-open span, with the rights of the owner, and returns its name; for roles that store rows';
