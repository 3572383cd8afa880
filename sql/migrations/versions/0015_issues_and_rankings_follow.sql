-- Dates of statistics and rankings: which were made, and whose source has changed since. A date without entries is made, too.

create table ops.made_dates (
    table_name text not null,
    date date not null,
    made_at timestamptz default clock_timestamp(),
    primary key (table_name, date)
);
comment on table ops.made_dates is 'Dates of rankings and issue statistics that were made, also those that came out empty';
comment on column ops.made_dates.table_name is 'Table of rankings or statistics';
comment on column ops.made_dates.date is 'Date in USAGE_TIMEZONE';
comment on column ops.made_dates.made_at is 'When it was last made; null: before this was noted';

-- Rows are only inserted and deleted: writers of the sources never wait for each other here.
create table ops.touched_dates (
    table_name text not null,
    date date not null,
    touched_at timestamptz not null default clock_timestamp()
);
create index on ops.touched_dates (table_name, date);
comment on table ops.touched_dates is 'Dates of rankings and issue statistics whose source changed; gone when the date is made again';
comment on column ops.touched_dates.table_name is 'Table of rankings or statistics';
comment on column ops.touched_dates.date is 'Date in USAGE_TIMEZONE';
comment on column ops.touched_dates.touched_at is 'When its source changed';

insert into ops.made_dates (table_name, date, made_at)
select 'stats.daily_issue_stats', date, updated_at from stats.daily_issue_stats
union all
select distinct 'stats.popular_' || ranking, ranking_date, null::timestamptz from reporting.rankings;

create function ops.touch_dates(tables text[], days date[], following integer) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- Tomorrow as well, for a transaction that begins before midnight and ends after it.
    insert into ops.touched_dates (table_name, date)
    select distinct touched.table_name, day.date + ahead
    from unnest(tables) as touched (table_name)
    cross join unnest(days) as day (date)
    cross join generate_series(0, following) as ahead
    cross join reporting.current_day
    where day.date + ahead <= current_day.today + 1
$$;
revoke execute on function ops.touch_dates from public;
comment on function ops.touch_dates is 'Notes for these tables that these days changed, and as many days that follow each of them';

-- Triggers write with the rights of the owner: an application that writes its issues has none here.

create function ops.touch_rankings_of_usage() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    days date[];
begin
    if tg_op = 'INSERT' then
        days := array(select distinct usage_date from after_rows);
    elsif tg_op = 'DELETE' then
        days := array(select distinct usage_date from before_rows);
    else
        -- Not when only columns changed that no ranking shows.
        execute format(
            'select array(select distinct usage_date from ('
            '(select %%1$s from before_rows except select %%1$s from after_rows) union all '
            '(select %%1$s from after_rows except select %%1$s from before_rows)) as changed)',
            tg_argv[1]
        ) into days;
    end if;
    perform ops.touch_dates(tg_argv[0]::text[], days, 6);
    return null;
end
$$;
comment on function ops.touch_rankings_of_usage is 'Notes that the rankings of seven dates changed for each day that did. Arguments: the tables of rankings, the columns that count';

create trigger touch_rankings_inserted
after insert on analytics.usage_daily
referencing new table as after_rows
for each statement
execute function ops.touch_rankings_of_usage(
    '{stats.popular_models,stats.popular_models_by_tokens,stats.popular_services,stats.popular_services_by_tokens}'
);
create trigger touch_rankings_updated
after update on analytics.usage_daily
referencing old table as before_rows new table as after_rows
for each statement
execute function ops.touch_rankings_of_usage(
    '{stats.popular_models,stats.popular_models_by_tokens,stats.popular_services,stats.popular_services_by_tokens}',
    'usage_date, team, service, provider, model, requests, total_tokens'
);
create trigger touch_rankings_deleted
after delete on analytics.usage_daily
referencing old table as before_rows
for each statement
execute function ops.touch_rankings_of_usage(
    '{stats.popular_models,stats.popular_models_by_tokens,stats.popular_services,stats.popular_services_by_tokens}'
);

create trigger touch_rankings_inserted
after insert on usage.api_key_daily
referencing new table as after_rows
for each statement
execute function ops.touch_rankings_of_usage('{stats.popular_api_keys}');
create trigger touch_rankings_updated
after update on usage.api_key_daily
referencing old table as before_rows new table as after_rows
for each statement
execute function ops.touch_rankings_of_usage(
    '{stats.popular_api_keys}', 'usage_date, api_key_id, total_requests, failed_requests, total_file_size'
);
create trigger touch_rankings_deleted
after delete on usage.api_key_daily
referencing old table as before_rows
for each statement
execute function ops.touch_rankings_of_usage('{stats.popular_api_keys}');

-- Views, titles and people of an issue have no history: their changes make nothing again.

create function app.touch_issue_dates() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform
        ops.touch_dates('{stats.daily_issue_stats}', array_agg(distinct created_on) || array_agg(distinct resolved_on), 0),
        ops.touch_dates('{stats.popular_issues}', array_agg(distinct created_on), 6)
    from (
        select
            (created_at at time zone time_zone)::date as created_on,
            (resolved_at at time zone time_zone)::date as resolved_on
        from changed_rows
        cross join ops.calendar
    ) as dated;
    return null;
end
$$;
comment on function app.touch_issue_dates is 'Notes which dates of statistics and rankings changed with issues that came or went';
create trigger touch_dates_inserted
after insert on app.issues
referencing new table as changed_rows
for each statement
execute function app.touch_issue_dates();
create trigger touch_dates_deleted
after delete on app.issues
referencing old table as changed_rows
for each statement
execute function app.touch_issue_dates();

create function app.touch_dates_of_changed_issue() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select time_zone from ops.calendar);
    created_on constant date[] := array[(old.created_at at time zone zone)::date, (new.created_at at time zone zone)::date];
    resolved_on constant date[] := array[(old.resolved_at at time zone zone)::date, (new.resolved_at at time zone zone)::date];
begin
    perform ops.touch_dates('{stats.daily_issue_stats}', created_on || resolved_on, 0);
    if old.created_at <> new.created_at then
        perform ops.touch_dates('{stats.popular_issues}', created_on, 6);
    end if;
    return null;
end
$$;
comment on function app.touch_dates_of_changed_issue is 'Notes which dates of statistics and rankings changed with an issue';
create trigger touch_dates_updated
after update on app.issues
for each row
when (old.created_at <> new.created_at or old.resolved_at is distinct from new.resolved_at)
execute function app.touch_dates_of_changed_issue();

create function app.touch_comment_dates() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed text := 'select id, issue_id, created_at from after_rows';
begin
    if tg_op = 'DELETE' then
        changed := 'select id, issue_id, created_at from before_rows';
    elsif tg_op = 'UPDATE' then
        changed := '(select id, issue_id, created_at from before_rows except select id, issue_id, created_at from after_rows)'
            ' union all '
            '(select id, issue_id, created_at from after_rows except select id, issue_id, created_at from before_rows)';
    end if;
    execute format(
        $query$
        with dated as (
            select distinct
                (changed.created_at at time zone time_zone)::date as written_on,
                (issue.created_at at time zone time_zone)::date as created_on
            from (%%s) as changed
            cross join ops.calendar
            left join app.issues as issue on issue.id = changed.issue_id
        ),
        -- A comment counts in the rankings that its issue is in, from the day on which it was written.
        ranked as (
            select distinct greatest(written_on, created_on) + ahead as date
            from dated
            cross join generate_series(0, 6) as ahead
            where greatest(written_on, created_on) + ahead <= created_on + 6
        )
        select
            ops.touch_dates('{stats.daily_issue_stats}', array(select distinct written_on from dated), 0),
            ops.touch_dates('{stats.popular_issues}', array(select date from ranked), 0)
        $query$,
        changed
    );
    return null;
end
$$;
comment on function app.touch_comment_dates is 'Notes which dates of statistics and rankings changed with comments';
create trigger touch_dates_inserted
after insert on app.comments
referencing new table as after_rows
for each statement
execute function app.touch_comment_dates();
create trigger touch_dates_updated
after update on app.comments
referencing old table as before_rows new table as after_rows
for each statement
execute function app.touch_comment_dates();
create trigger touch_dates_deleted
after delete on app.comments
referencing old table as before_rows
for each statement
execute function app.touch_comment_dates();

-- The newest ranking is the newest that was made, not the newest with entries.

create or replace view reporting.current_rankings as
with newest as (
    select ranking, max(made.date) as ranking_date
    from (
        select substr(table_name, length('stats.popular_') + 1) as ranking, date
        from ops.made_dates
        where starts_with(table_name, 'stats.popular_')
        union all
        select ranking, ranking_date
        from reporting.rankings
    ) as made
    group by ranking
)
select
    ranking,
    score_unit,
    ranking_date,
    rank,
    id,
    title,
    score
from reporting.rankings
join newest using (ranking, ranking_date);
comment on view reporting.current_rankings is 'The newest of each ranking; one that came out empty has no row';

create or replace view reporting.data_freshness as
with made as (
    select table_name, date, max(made_at) as made_at
    from (
        select table_name, date, made_at from ops.made_dates
        union all
        select 'stats.daily_issue_stats', date, updated_at from stats.daily_issue_stats
        union all
        select 'stats.popular_' || ranking, ranking_date, null from reporting.rankings
    ) as noted
    group by table_name, date
),
sources as (
    select
        'usage.' || family || '_daily' as table_name,
        max(usage_date) filter (where rolled_at >= (usage_date + 1)::timestamp at time zone time_zone) as newest_complete_day,
        max(rolled_at) as last_rolled_up_at,
        count(*) filter (where version > rolled_version and usage_date < today) as closed_windows_waiting
    from ops.touched_days
    cross join reporting.current_day
    group by family
    union all
    select
        'usage.merchant_usage',
        max(usage_dates[1]) filter (where applied_at >= (usage_dates[1] + 1)::timestamp at time zone time_zone),
        max(applied_at),
        null
    from ops.sync_batches
    cross join reporting.current_day
    where family = 'merchant'
    union all
    select
        made.table_name,
        -- Rankings that were made before this was noted have no time.
        max(made.date) filter (
            where coalesce(made.made_at >= (made.date + 1)::timestamp at time zone time_zone, made.date < today)
        ),
        max(made.made_at),
        count(*) filter (
            where made.date < today
              and exists (
                select 1
                from ops.touched_dates as touched
                where touched.table_name = made.table_name
                  and touched.date = made.date
              )
        )
    from made
    cross join reporting.current_day
    group by made.table_name
),
windows as (
    select
        grain,
        max(window_end) filter (where rolled_at >= window_end) as complete_until,
        max(rolled_at) as last_rolled_up_at
    from (
        select
            grain,
            rolled_at,
            case
                when grain = 'hour' then window_start + interval '1 hour'
                else (window_start at time zone time_zone + ('1 ' || grain)::interval) at time zone time_zone
            end as window_end
        from ops.rolled_windows
        cross join reporting.current_day
    ) as ends
    group by grain
),
waiting as (
    select
        grain,
        count(distinct window_start) as closed_windows
    from ops.touched_windows
    cross join reporting.current_day
    where window_start < date_trunc(grain, now(), time_zone)
    group by grain
)
select
    tables.table_name,
    tables.views,
    case
        when tables.grain is null then sources.newest_complete_day
        else (windows.complete_until at time zone current_day.time_zone)::date - 1
    end as newest_complete_day,
    coalesce(sources.last_rolled_up_at, windows.last_rolled_up_at) as last_rolled_up_at,
    case
        when tables.grain is null then sources.closed_windows_waiting
        else coalesce(waiting.closed_windows, 0)
    end as closed_windows_waiting
from (
    values
        ('analytics.usage_hourly', 'hour', 'usage_by_hour'),
        (
            'analytics.usage_daily',
            'day',
            'usage_by_team, usage_by_service, usage_by_model, usage_by_user, cost_by_team_and_month, cost_by_model_and_month,'
            ' latency_by_service, latency_by_service_and_week, latency_by_model, error_rate_by_provider, error_rate_by_service'
        ),
        ('analytics.usage_weekly', 'week', null),
        ('analytics.usage_monthly', 'month', null),
        ('usage.api_key_daily', null, 'api_key_activity, api_key_usage_by_day'),
        ('usage.provider_daily', null, 'storage_provider_usage_by_day'),
        ('usage.token_daily', null, 'api_token_usage_by_day'),
        ('usage.merchant_usage', null, 'merchant_usage_by_day'),
        ('stats.daily_issue_stats', null, 'issue_flow'),
        ('stats.popular_issues', null, 'rankings, current_rankings'),
        ('stats.popular_models', null, 'rankings, current_rankings'),
        ('stats.popular_models_by_tokens', null, 'rankings, current_rankings'),
        ('stats.popular_services', null, 'rankings, current_rankings'),
        ('stats.popular_services_by_tokens', null, 'rankings, current_rankings'),
        ('stats.popular_api_keys', null, 'rankings, current_rankings')
) as tables (table_name, grain, views)
cross join reporting.current_day
left join sources on sources.table_name = tables.table_name
left join windows on windows.grain = tables.grain
left join waiting on waiting.grain = tables.grain;
comment on column reporting.data_freshness.last_rolled_up_at is 'When anything of it was last rolled up or counted; null: never, or not known';
