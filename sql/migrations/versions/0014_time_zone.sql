-- What makes a change of USAGE_TIMEZONE safe: a guard for all who write, and where days of an earlier zone end.

alter table ops.calendar add column rezoning_since timestamptz;
comment on column ops.calendar.rezoning_since is 'When `usage-pipeline rezone` began to make days again; null: it is not running, and did not end halfway';

create table ops.zone_borders (
    first_moment timestamptz primary key,
    first_day date not null,
    earlier_zone text not null,
    noted_at timestamptz not null default clock_timestamp()
);
comment on table ops.zone_borders is 'Where days of usage events of an earlier time zone end, since their events were not there to make them again';
comment on column ops.zone_borders.first_moment is 'First moment after the days of the earlier zone';
comment on column ops.zone_borders.first_day is 'The day that begins at this moment, and has another length than others';
comment on column ops.zone_borders.earlier_zone is 'Time zone of the days before';
comment on column ops.zone_borders.noted_at is 'When that was found';

create function ops.expect_time_zone(expected text) returns void
language plpgsql
as $$
declare
    known ops.calendar%%rowtype;
begin
    -- A rezone waits for all that began with the earlier zone. Any number will do, as long as nothing else locks the same one.
    perform pg_advisory_xact_lock_shared(7120002);
    select * into known from ops.calendar;
    if known.time_zone <> expected then
        raise exception 'USAGE_TIMEZONE: expected %%, in which the days of this database are, came %%; to change it, run: usage-pipeline rezone',
            known.time_zone, expected
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if known.rezoning_since is not null then
        raise exception 'USAGE_TIMEZONE: the days are being made again in %%; wait, or if it was interrupted, run again: usage-pipeline rezone',
            known.time_zone
            using errcode = 'object_not_in_prerequisite_state';
    end if;
end
$$;
comment on function ops.expect_time_zone is 'Fails unless days are in this time zone and no rezone is at work; the transaction then keeps a rezone from beginning';
