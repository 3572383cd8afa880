-- The events of the user, in tables and files, for as long as the session lasts: archives of them go, whoever sent them.
create temporary table if not exists erased_event (
    event_id uuid primary key,
    event_time timestamptz not null
);
