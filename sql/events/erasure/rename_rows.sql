-- Gives the user's rows of a part of {table} the pseudonym, and counts them.
with renamed as (
    update {table}
    set user_id = %(pseudonym)s{cleared}
    where user_id = %(user_id)s{within}
    returning 1
)
select count(*)
from renamed;
