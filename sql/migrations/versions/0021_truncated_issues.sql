-- TRUNCATE fires no trigger for DELETE, and afterwards nobody knows which days had rows: all that were made are touched.
create function app.touch_all_dates() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform ops.touch_dates(array[table_name], array_agg(date), 0)
    from ops.made_dates
    where table_name in ('stats.daily_issue_stats', 'stats.popular_issues')
    group by table_name;
    return null;
end
$$;
revoke execute on function app.touch_all_dates from public;
comment on function app.touch_all_dates is 'Notes for a TRUNCATE that all dates of issue statistics and rankings of issues changed';
create trigger touch_dates_truncated
after truncate on app.issues
for each statement
execute function app.touch_all_dates();
create trigger touch_dates_truncated
after truncate on app.comments
for each statement
execute function app.touch_all_dates();
