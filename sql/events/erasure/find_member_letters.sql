-- Dead letters of single members that may be of erased request events, and those of keys of providers that were the user's.
select dead_letter_id
from ops.dead_letters as letter
where member is not null
  and (
    (
        family = 'event'
        and exists (select 1 from raw.request_event_ids where payload_hash is null)
    )
    or (
        family = 'provider'
        and raw_format = 'hash'
        and (
            exists (
                select 1
                from usage.provider_usage as known
                where known.user_id = %(pseudonym)s
                  and convert_to(format('provider:%%s:%%s:metrics', api_key_id, provider), 'UTF8') = letter.source_key
            )
            or exists (
                select 1
                from raw.provider_deltas as delta
                where delta.user_id = %(pseudonym)s
                  and delta.batch_id = letter.batch_id
                  and convert_to(delta.source_key, 'UTF8') = letter.source_key
            )
        )
    )
  )
order by dead_letter_id;
