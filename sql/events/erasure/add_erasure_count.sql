-- Adds the rows of a step, in the transaction that changed them.
update ops.erasures
set counts = counts || jsonb_build_object(%(name)s::text, coalesce((counts ->> %(name)s)::bigint, 0) + %(rows)s)
where erasure_id = %(erasure_id)s;
