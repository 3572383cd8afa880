-- A bounded batch of registry rows whose events are gone; those of message archives go along.
delete from analytics.usage_event_ids
where event_id in (
    select event_id
    from analytics.usage_event_ids
    where event_time < %(horizon)s
    limit %(limit)s
    for update skip locked
);
