-- Refused message archives, if an event was erased; reading them decides whether they belong to it.
select dead_letter_id
from ops.dead_letters
where family = 'message_archive'
  and raw_format = 'string'
  and exists (select 1 from erased_event)
order by dead_letter_id;
