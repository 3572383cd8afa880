-- What staged events say other than the stored ones of their ids, with both values where these are numbers. Null: the stored one
-- is in an archive file, or was taken out or erased. Columns go by their names, which are those of the table.
select
    staged.position,
    staged.source,
    staged.external_id,
    case when stored.event_id is not null then said.other end as differs
from staged_usage_event as staged
left join analytics.usage_event_ids as known on known.event_id = staged.event_id
left join analytics.usage_events as stored
    on stored.event_id = known.event_id
    and stored.event_time = known.event_time
cross join lateral (
    select coalesce(array_agg(
        concat(
            came.key,
            case
                when 'number' in (jsonb_typeof(kept.value), jsonb_typeof(came.value))
                then concat(' ', coalesce(kept.value #>> '{}', 'none'), ' → ', coalesce(came.value #>> '{}', 'none'))
            end
        )
        order by came.key
    ), '{}') as other
    from jsonb_each(to_jsonb(staged) - array['position', 'payload_hash']) as came
    join jsonb_each(to_jsonb(stored)) as kept on kept.key = came.key
    where came.value <> kept.value
) as said;
