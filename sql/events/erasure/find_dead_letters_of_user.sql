-- Dead letters that may hold a user's id; reading them decides. Text with a backslash may spell it otherwise, a DUMP may pack it.
select dead_letter_id
from ops.dead_letters
where %(may_be_number)s
   or raw_format = 'dump'
   or position('\x5c'::bytea in raw) > 0
   or exists (
    select 1
    from unnest(%(needles)s::bytea[]) as needle
    where position(needle in raw) > 0
)
order by dead_letter_id;
