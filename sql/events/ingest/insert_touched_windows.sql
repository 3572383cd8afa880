-- Notes the hours and days that these moments are in, one for each quarter of an hour with an event.
with hours as (
    select distinct date_trunc('hour', moment, %(timezone)s) as hour
    from unnest(%(moments)s::timestamptz[]) as moment
)
insert into ops.touched_windows (grain, window_start)
select 'hour', hour from hours
union all
select distinct 'day', date_trunc('day', hour, %(timezone)s) from hours;
