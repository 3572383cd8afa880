-- Everything is erased, and the proof of the id is not needed any more.
update ops.erasures
set finished_at = clock_timestamp(),
    salt = null,
    proof = null
where erasure_id = %(erasure_id)s;
