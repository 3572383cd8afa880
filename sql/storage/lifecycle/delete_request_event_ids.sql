-- A bounded batch of registry rows whose request events are gone.
delete from raw.request_event_ids
where event_id in (
    select event_id
    from raw.request_event_ids
    where usage_date < (%(horizon)s::timestamptz at time zone 'UTC')::date
    limit %(limit)s
    for update skip locked
);
