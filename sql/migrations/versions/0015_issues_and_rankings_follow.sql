-- Times that are no time break a view for everybody: a difference of infinities is an error.

update app.issues
set created_at = case when isfinite(created_at) then created_at when isfinite(updated_at) then updated_at else now() end,
    updated_at = case when isfinite(updated_at) then updated_at when isfinite(created_at) then created_at else now() end,
    resolved_at = case
        when isfinite(resolved_at) then resolved_at
        when resolved_at is null then null
        when isfinite(updated_at) then updated_at
        else now()
    end
where not (isfinite(created_at) and isfinite(updated_at) and isfinite(coalesce(resolved_at, updated_at)));
update app.comments
set created_at = issue.created_at
from app.issues as issue
where issue.id = comments.issue_id
  and not isfinite(comments.created_at);
alter table app.issues
    add constraint issues_have_finite_times
    check (isfinite(created_at) and isfinite(updated_at) and (resolved_at is null or isfinite(resolved_at)));
alter table app.comments add constraint comments_have_finite_times check (isfinite(created_at));

-- Whose an issue and a comment is: columns say it, not how an id looks.

alter table app.issues
    add column loaded_project text check (length(loaded_project) <= 100),
    add column loaded_number text check (length(loaded_number) <= 200),
    add check ((loaded_project is null) = (loaded_number is null));
alter table app.comments add column loaded_number bigint check (loaded_number > 0);
comment on column app.issues.loaded_project is 'Project that `usage-pipeline load issues` loaded it for, empty without --project; null: an application wrote it';
comment on column app.issues.loaded_number is 'Its number in that project; null: an application wrote it';
comment on column app.comments.loaded_number is 'Number of a comment that the loader made up from a count, 1 and up for each issue; null: an application wrote it';

-- What was loaded before left no mark. The loader knew no reporter, and applications know theirs.
update app.issues
set loaded_project = '',
    loaded_number = id
where reporter is null;
-- It made comments up without an author, named <issue>-<k> from 1 up without a gap, and spread them evenly from the creation of the
-- issue. What is not exactly so is an application's.
with named as (
    select
        comment.id,
        comment.issue_id,
        comment.created_at - issue.created_at as after_issue,
        substr(comment.id, length(comment.issue_id) + 2)::bigint as number
    from app.comments as comment
    join app.issues as issue on issue.id = comment.issue_id
    where issue.loaded_project is not null
      and comment.author is null
      and comment.id ~ '-[1-9][0-9]{0,5}$'
      and left(comment.id, length(comment.issue_id) + 1) = comment.issue_id || '-'
      and substr(comment.id, length(comment.issue_id) + 2) ~ '^[1-9][0-9]{0,5}$'
),
without_gap as (
    select *
    from (
        select
            *,
            row_number() over (partition by issue_id order by number) as position
        from named
    ) as counted
    where number = position
),
measured as (
    select
        *,
        max(number) over (partition by issue_id) as numbers,
        max(after_issue) over (partition by issue_id) as longest
    from without_gap
),
spread as (
    select issue_id
    from measured
    group by issue_id
    -- Each was rounded down to whole microseconds.
    having bool_and(
        abs(extract(epoch from after_issue)::numeric * numbers - extract(epoch from longest)::numeric * number)
            <= 0.000001 * (numbers + number)
    )
)
update app.comments as t
set loaded_number = measured.number
from measured
where t.id = measured.id
  and measured.issue_id in (select issue_id from spread);

create unique index on app.issues (loaded_project, loaded_number) where loaded_project is not null;
create unique index on app.comments (issue_id, loaded_number) where loaded_number is not null;

-- Ten titles of a megabyte are an answer of ten.
update stats.popular_issues
set title = left(title, 299) || '…'
where length(title) > 300;
comment on column stats.popular_issues.title is 'What it is about; a title of more than 300 characters ends with … after 299';

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
revoke execute on function ops.touch_rankings_of_usage from public;
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
revoke execute on function app.touch_issue_dates from public;
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

create function app.touch_dates_of_moved_issue() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select time_zone from ops.calendar);
    created_on constant date[] := array[(old.created_at at time zone zone)::date, (new.created_at at time zone zone)::date];
begin
    perform
        ops.touch_dates('{stats.daily_issue_stats}', created_on, 0),
        ops.touch_dates('{stats.popular_issues}', created_on, 6);
    return null;
end
$$;
revoke execute on function app.touch_dates_of_moved_issue from public;
comment on function app.touch_dates_of_moved_issue is 'Notes which dates of statistics and rankings changed with the time of an issue';
create trigger touch_dates_updated
after update on app.issues
for each row
when (old.created_at <> new.created_at)
execute function app.touch_dates_of_moved_issue();

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
revoke execute on function app.touch_comment_dates from public;
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

-- When issues were resolved and opened again: with it an old day counts the same whenever it is made.

create table app.issue_resolutions (
    issue_id text not null references app.issues (id) on update cascade on delete cascade,
    resolved_at timestamptz not null check (isfinite(resolved_at)),
    reopened_at timestamptz check (isfinite(reopened_at)),
    primary key (issue_id, resolved_at),
    check (reopened_at >= resolved_at)
);
create index on app.issue_resolutions (resolved_at);
comment on table app.issue_resolutions is 'History of issues: each time that one was RESOLVED or CLOSED, kept by triggers on app.issues';
comment on column app.issue_resolutions.issue_id is 'Issue';
comment on column app.issue_resolutions.resolved_at is 'When its status entered RESOLVED or CLOSED';
comment on column app.issue_resolutions.reopened_at is 'When it left them again, by our clock; null: it did not. Before this was noted, openings again were not';
insert into app.issue_resolutions (issue_id, resolved_at)
select id, resolved_at
from app.issues
where resolved_at is not null;

-- Of days before, nobody knows which issues were opened again.
alter table ops.calendar add column resolutions_noted_since timestamptz not null default now();
comment on column ops.calendar.resolutions_noted_since is 'Since when app.issue_resolutions has every resolution and opening again';

create function app.note_new_resolutions() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.issue_resolutions (issue_id, resolved_at)
    select id, resolved_at
    from changed_rows
    where resolved_at is not null;
    return null;
end
$$;
revoke execute on function app.note_new_resolutions from public;
comment on function app.note_new_resolutions is 'Notes when issues that come were resolved';
create trigger note_new_resolutions
after insert on app.issues
referencing new table as changed_rows
for each statement
execute function app.note_new_resolutions();

create function app.note_resolution() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select time_zone from ops.calendar);
    days date[];
begin
    if new.resolved_at is null then
        update app.issue_resolutions
        set reopened_at = greatest(now(), resolved_at)
        where issue_id = new.id
          and reopened_at is null;
        -- On a later day it changes nothing of the day on which it was resolved.
        days := array(
            select (resolved_at at time zone zone)::date
            from app.issue_resolutions
            where issue_id = new.id
              and (resolved_at at time zone zone)::date = (reopened_at at time zone zone)::date
        );
    else
        -- A correction, or a file that knows better, takes the place of what it contradicts.
        days := array(select (resolved_at at time zone zone)::date from app.issue_resolutions where issue_id = new.id);
        delete from app.issue_resolutions
        where issue_id = new.id
          and (reopened_at is null or resolved_at >= new.resolved_at);
        update app.issue_resolutions
        set reopened_at = new.resolved_at
        where issue_id = new.id
          and reopened_at > new.resolved_at;
        insert into app.issue_resolutions (issue_id, resolved_at) values (new.id, new.resolved_at);
        days := days || (new.resolved_at at time zone zone)::date;
    end if;
    perform ops.touch_dates('{stats.daily_issue_stats}', days, 0);
    return null;
end
$$;
revoke execute on function app.note_resolution from public;
comment on function app.note_resolution is 'Notes when an issue was resolved or opened again, and which days of statistics that changed';
create trigger note_resolution
after update on app.issues
for each row
when (old.resolved_at is distinct from new.resolved_at)
execute function app.note_resolution();

create function app.touch_dates_of_resolutions() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform ops.touch_dates('{stats.daily_issue_stats}', array_agg(distinct (resolved_at at time zone time_zone)::date), 0)
    from changed_rows
    cross join ops.calendar;
    return null;
end
$$;
revoke execute on function app.touch_dates_of_resolutions from public;
comment on function app.touch_dates_of_resolutions is 'Notes which days of statistics changed with resolutions that went, also those of an issue that went';
create trigger touch_dates_deleted
after delete on app.issue_resolutions
referencing old table as changed_rows
for each statement
execute function app.touch_dates_of_resolutions();

comment on column stats.daily_issue_stats.resolved_count is 'Issues whose status entered RESOLVED or CLOSED on that day, and that were so at its end';

-- Days that were made before their issues and comments came are made again. Openings again were not noted, so a day that has more
-- resolved issues than are known now keeps them.
with created as (
    select (created_at at time zone time_zone)::date as date, count(*) as issues
    from app.issues
    cross join ops.calendar
    group by 1
),
resolved as (
    select (resolved_at at time zone time_zone)::date as date, count(*) as issues
    from app.issues
    cross join ops.calendar
    where resolved_at is not null
    group by 1
),
written as (
    select (created_at at time zone time_zone)::date as date, count(*) as comments
    from app.comments
    cross join ops.calendar
    group by 1
)
insert into ops.touched_dates (table_name, date)
select 'stats.daily_issue_stats', stored.date
from stats.daily_issue_stats as stored
left join created using (date)
left join resolved using (date)
left join written using (date)
where stored.created_count <> coalesce(created.issues, 0)
   or stored.comment_count <> coalesce(written.comments, 0)
   or stored.resolved_count < coalesce(resolved.issues, 0);

create or replace view reporting.issue_flow as
with changes as (
    select
        (issues.created_at at time zone current_day.time_zone)::date as day,
        1 as opened
    from app.issues
    cross join reporting.current_day
    union all
    select
        (resolutions.resolved_at at time zone current_day.time_zone)::date,
        -1
    from app.issue_resolutions as resolutions
    cross join reporting.current_day
    union all
    select
        (resolutions.reopened_at at time zone current_day.time_zone)::date,
        1
    from app.issue_resolutions as resolutions
    cross join reporting.current_day
    where resolutions.reopened_at is not null
),
days as (
    select
        day,
        sum(sum(opened)) over (order by day) as open_issues
    from (
        select day, opened from changes
        union all
        select date, 0 from stats.daily_issue_stats
    ) as all_days
    group by day
)
select
    counted.date as issue_date,
    counted.created_count as created_issues,
    counted.resolved_count as resolved_issues,
    counted.created_count - counted.resolved_count as net_issues,
    counted.comment_count as comments,
    days.open_issues::bigint as open_issues
from stats.daily_issue_stats as counted
join days on days.day = counted.date;
comment on column reporting.issue_flow.resolved_issues is 'Issues resolved or closed on that day, and so at its end';
comment on column reporting.issue_flow.net_issues is 'created_issues less resolved_issues; issues that were opened again are in open_issues only';
comment on column reporting.issue_flow.open_issues is 'Issues reported and not resolved at the end of the day (of today: by now): the backlog. From the issues themselves, so it needs no statistics of earlier days';

create or replace view reporting.time_to_resolve_by_week as
select
    week_start,
    count(*) as resolved_issues,
    round((percentile_cont(0.5) within group (order by days_to_resolve))::numeric, 1) as median_days_to_resolve,
    round((percentile_cont(0.9) within group (order by days_to_resolve))::numeric, 1) as p90_days_to_resolve
from (
    select
        date_trunc('week', issues.resolved_at at time zone current_day.time_zone)::date as week_start,
        -- Resolved before it was reported: nobody knows how long that took.
        case
            when issues.resolved_at >= issues.created_at
            then extract(epoch from issues.resolved_at - issues.created_at) / 86400
        end as days_to_resolve
    from app.issues
    cross join reporting.current_day
    where issues.resolved_at is not null
) as resolved
group by week_start;
comment on column reporting.time_to_resolve_by_week.median_days_to_resolve is 'Half of them took at most so many days from report to resolution; those with a resolution before the report are left out';
