-- What processes of ours may write must not break the work of others: partitions off the grid, and times that no program can read.
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
    -- CHUNK_TIME_INTERVAL_HOURS is 6, 12, 24 or 48. A wider one would take the rows of days that it should not have, and one off
    -- this grid leaves a rest that no partition can cover. Who took a process over must not lay out all years to come, either.
    if first_moment is null or next_moment is null or not isfinite(first_moment) or not isfinite(next_moment)
        or next_moment <= first_moment or next_moment > first_moment + interval '48 hours'
        or extract(epoch from first_moment) %% 21600 <> 0 or extract(epoch from next_moment) %% 21600 <> 0
        or next_moment > now() + interval '2 years'
    then
        raise exception 'expected a span of 6 to 48 hours from a full quarter of a UTC day, within two years, came %% to %%',
            first_moment, next_moment
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

-- Late roll-ups ask for these by their time: one before the year 1 would fail each look, for everybody.
alter table ops.touched_windows add constraint window_start_is_possible
    check (window_start >= '1970-01-01 00:00+00' and window_start < '9999-01-01 00:00+00') not valid;
-- Not validated: what is stored was read before, and large tables would be locked meanwhile.
do $$
declare
    named text;
    rules text;
begin
    foreach named in array array[
        'app.external_posts', 'ops.counter_regressions', 'ops.dead_letters', 'ops.event_conflicts', 'ops.heartbeats',
        'ops.ingest_batches', 'ops.odometer_lives', 'ops.odometers', 'ops.sync_batches', 'ops.touched_days', 'ops.touched_windows',
        'usage.api_access_tokens', 'usage.api_keys', 'usage.merchant_usage', 'usage.provider_usage'
    ]
    loop
        select string_agg(
            case atttypid
                when 'date'::regtype then format('%%I between ''0001-01-01'' and ''9999-12-31''', attname)
                else format('%%I between ''0001-01-01 00:00+00'' and ''9999-12-31 23:59:59.999999+00''', attname)
            end,
            ' and '
        )
        into strict rules
        from pg_attribute
        where attrelid = named::regclass
          and attnum > 0
          and not attisdropped
          and atttypid in ('date'::regtype, 'timestamptz'::regtype);
        execute format('alter table %%s add constraint times_are_readable check (%%s) not valid', named, rules);
    end loop;
end
$$;
